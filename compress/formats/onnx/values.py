"""Every value of an ONNX graph on one image, operator by operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx

from compress.formats.base import Activation
from compress.formats.onnx.runtime import open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["onnx_activations", "values_by_name"]


def values_by_name(
    model: onnx.ModelProto, image: NDArray[np.float32], feeds: Mapping[str, NDArray[np.generic]] | None = None
) -> Mapping[str, NDArray[np.generic]]:
    """Every value of the graph, run operator by operator on `image` `[1, C, H, W]`; `feeds` are its other inputs."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    known = {value.name for value in whole.graph.output}
    names = [name for node in whole.graph.node for name in node.output if name and name not in known]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(whole.SerializeToString(), threads=1, fused=False)
    outputs = [output.name for output in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, {session.get_inputs()[0].name: image, **(feeds or {})}), strict=True))


def onnx_activations(model: onnx.ModelProto, image: NDArray[np.float32]) -> list[Activation]:
    """Results of the operators that the image reaches, in execution order; constants are none of them."""
    values = values_by_name(model, image)
    fed = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if not fed.isdisjoint(node.input):
            fed.update(node.output)
            nodes.append(node)
    return [
        Activation(
            node.name or node.output[0],
            _as_float(values[node.output[0]]),
            tuple(position for position, reader in enumerate(nodes) if set(node.output) & set(reader.input)),
        )
        for node in nodes
    ]


def _as_float(values: NDArray[np.generic]) -> NDArray[np.float32] | None:
    return values.astype(np.float32) if np.issubdtype(values.dtype, np.floating) else None
