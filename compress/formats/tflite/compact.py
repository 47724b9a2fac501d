"""Tensors and constants that nothing reads any more are left out of the file."""

from __future__ import annotations

from compress.formats.tflite.flatbuffer import GraphEntry, MetadataEntry, ModelEntry, TensorEntry

__all__ = ["drop_unused"]


def drop_unused(model: ModelEntry) -> None:
    """Renumber, in place, the tensors of every graph and the buffers of the model."""
    for graph in model.subgraphs:
        _drop_tensors(model, graph)
    readers: list[TensorEntry | MetadataEntry] = [*(model.metadata or [])]
    for graph in model.subgraphs:
        readers += graph.tensors
    kept = sorted({0, *(int(reader.buffer) for reader in readers)})  # buffer 0 is the empty one
    indices = {old: new for new, old in enumerate(kept)}
    for reader in readers:
        reader.buffer = indices[int(reader.buffer)]
    model.buffers = [model.buffers[old] for old in kept]


def _drop_tensors(model: ModelEntry, graph: GraphEntry) -> None:
    used = {*graph.inputs, *graph.outputs}
    for operator in graph.operators:
        used.update((*operator.inputs, *operator.outputs))
        used.update(() if operator.intermediates is None else operator.intermediates)
    indices = {old: new for new, old in enumerate(sorted(int(index) for index in used if index >= 0))}
    indices[-1] = -1  # an optional input that is left out
    graph.inputs = [indices[int(index)] for index in graph.inputs]
    graph.outputs = [indices[int(index)] for index in graph.outputs]
    for operator in graph.operators:
        operator.inputs = [indices[int(index)] for index in operator.inputs]
        operator.outputs = [indices[int(index)] for index in operator.outputs]
        if operator.intermediates is not None:
            operator.intermediates = [indices[int(index)] for index in operator.intermediates]
    if graph is model.subgraphs[0]:
        for signature in model.signatureDefs or []:
            for entry in (*(signature.inputs or []), *(signature.outputs or [])):
                entry.tensorIndex = indices[int(entry.tensorIndex)]
    graph.tensors = [tensor for index, tensor in enumerate(graph.tensors) if index in indices]
