"""Every value that a module computes from one image, in execution order; constants are none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import fx

from compress.formats.base import Activation
from compress.graph.capture import call_nodes, capture, layer_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.core.artifact import Artifact

__all__ = ["module_activations"]


def module_activations(artifact: Artifact, image: NDArray[np.float32]) -> list[Activation]:
    """Run the captured graph node by node.

    Raises:
        CompressError: the module cannot be captured.
    """
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
    while "quantized_decomposed" in str(node.target):
        node = node.all_input_nodes[0]
    return layer_name(node)
