"""Facts of a graph: what it is made of, as stored and as ONNX Runtime executes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from compress.core.measurement import Caveat
from compress.formats.onnx.ort_graph import optimized_graph
from compress.measure.unmeasured import attempt
from compress.optimize.activation_memory import peak_activation_bytes
from compress.support.scratch import scratch_folder

__all__ = ["GraphFacts", "all_nodes", "graph_facts", "operators", "with_shapes"]


@dataclass(frozen=True)
class GraphFacts:
    """One column of the before/after table.

    Attributes:
        nodes: in the file, bodies of If and Loop included.
        operators: their number by type; types outside the ONNX standard carry their domain.
        run_nodes: of the graph that a session of ONNX Runtime makes of the file (level `extended`).
        run_operators: their number by type.
        peak_activation_bytes: of that graph for a batch of one; None where `notes` says why.
    """

    size_bytes: int
    nodes: int
    operators: Mapping[str, int]
    run_nodes: int
    run_operators: Mapping[str, int]
    peak_activation_bytes: int | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


def graph_facts(path: Path, shapes: Iterable[onnx.ValueInfoProto] = ()) -> GraphFacts:
    """Facts of the ONNX file at `path`.

    Args:
        shapes: of inner values that the file does not record and ONNX cannot infer, as behind fused operators.

    Raises:
        StageError: ONNX Runtime refuses the file.
    """
    stored = onnx.load(path)
    known = {value.name for value in stored.graph.value_info}
    stored.graph.value_info.extend(value for value in shapes if value.name not in known)
    run = _as_run(stored)
    operators_stored, run_operators, caveats = operators(stored), operators(run), dict[str, Caveat]()
    peak = attempt("peak_activation_bytes", caveats, lambda: peak_activation_bytes(run))
    return GraphFacts(
        size_bytes=path.stat().st_size,
        nodes=operators_stored.total(),
        operators=operators_stored,
        run_nodes=run_operators.total(),
        run_operators=run_operators,
        peak_activation_bytes=peak,
        notes={quantity: caveat.why for quantity, caveat in caveats.items()},
    )


def _as_run(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that ONNX Runtime executes, with shapes.

    ONNX Runtime hands on the shapes that the file records and its fused operators are unknown to ONNX's inference, so
    shapes are inferred before, and again after for the values that it made itself.
    """
    with scratch_folder() as folder:
        path = folder / "shapes.onnx"
        onnx.save(with_shapes(model), path)
        return with_shapes(optimized_graph(path))


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with the shapes of inner values, as far as ONNX can infer them."""
    try:
        return onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy


def operators(model: onnx.ModelProto) -> Counter[str]:
    """Number of nodes by type."""
    return Counter(
        node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        for node in all_nodes(model.graph)
    )


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from all_nodes(inner)
