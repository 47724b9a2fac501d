"""Every value that an artifact computes from one image, in execution order; constants are none of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compress.types import Artifact, Format

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import fx

__all__ = ["Activation", "activations"]


@dataclass(frozen=True)
class Activation:
    """One operator's result.

    Attributes:
        name: the layer or node.
        values: float32; None for what is no float tensor.
        readers: positions of the operators that read it.
    """

    name: str
    values: NDArray[np.float32] | None
    readers: tuple[int, ...] = ()


def activations(artifact: Artifact, image: NDArray[np.float32]) -> list[Activation]:
    """Run `image` `[1, C, H, W]` operator by operator.

    Returns:
        Empty for a format whose inner values cannot be read.

    Raises:
        CompressError: the artifact cannot be captured or loaded.
    """
    if artifact.format is Format.TORCH:
        return _of_module(artifact, image)
    if artifact.format is Format.ONNX:
        return _of_onnx(artifact, image)
    return _of_tflite(artifact, image) if artifact.format is Format.TFLITE else []


def _of_module(artifact: Artifact, image: NDArray[np.float32]) -> list[Activation]:
    import torch
    from torch import fx

    from compress.graph import call_nodes, capture

    graph = capture(artifact.module, artifact.input, dynamic_batch=False)
    fed = set(graph.graph.find_nodes(op="placeholder"))
    for node in call_nodes(graph):
        if not fed.isdisjoint(node.all_input_nodes):
            fed.add(node)
    nodes = [node for node in call_nodes(graph) if node in fed]
    positions = {node: position for position, node in enumerate(nodes)}
    seen: dict[fx.Node, NDArray[np.float32]] = {}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if n in positions and isinstance(value, torch.Tensor) and value.is_floating_point():
                seen[n] = value.float().numpy().copy()
            return value

    with torch.inference_mode():
        Watch(graph).run(torch.from_numpy(image))
    return [
        Activation(_layer(node), seen.get(node), tuple(positions[user] for user in node.users if user in positions))
        for node in nodes
    ]


def _layer(node: fx.Node) -> str:
    """The layer a value comes from; quantizing and dequantizing it is none."""
    from compress.graph import layer_name

    while "quantized_decomposed" in str(node.target):
        node = node.all_input_nodes[0]
    return layer_name(node)


def _of_onnx(artifact: Artifact, image: NDArray[np.float32]) -> list[Activation]:
    import onnx

    from compress.gates.fused import values_by_name

    model = onnx.load(artifact.path)
    seen = values_by_name(model, image)
    fed = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if not fed.isdisjoint(node.input):
            fed.update(node.output)
            nodes.append(node)
    return [
        Activation(
            node.name or node.output[0],
            _as_float(seen[node.output[0]]),
            tuple(place for place, other in enumerate(nodes) if set(node.output) & set(other.input)),
        )
        for node in nodes
    ]


def _as_float(values: NDArray[np.generic]) -> NDArray[np.float32] | None:
    return values.astype(np.float32) if np.issubdtype(values.dtype, np.floating) else None


def _of_tflite(artifact: Artifact, image: NDArray[np.float32]) -> list[Activation]:
    from compress.runtimes.tflite import inner_values

    return [Activation(name, values) for name, values in inner_values(artifact.path, image).items()]
