"""Looking into a captured graph: quantizers switched for a while, and the values of chosen nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from torch import fx

from compress.quantization.ptq import quantizers
from compress.quantization.tensor_quantizer import Mode

__all__ = ["cut", "switched"]


@contextmanager
def switched(prepared: fx.GraphModule, mode: Mode, *, only: Collection[str] | None = None) -> Iterator[None]:
    """Every quantizer in `mode` (or those named in `only`, and the others off); as they were afterwards."""
    by_name = quantizers(prepared)
    before = {name: quantizer.mode for name, quantizer in by_name.items()}
    try:
        for name, quantizer in by_name.items():
            quantizer.mode = mode if only is None or name in only else Mode.OFF
        yield
    finally:
        for name, quantizer in by_name.items():
            quantizer.mode = before[name]


def cut(graph: fx.GraphModule, outputs: Sequence[fx.Node]) -> fx.GraphModule:
    """A module on the same parameters and submodules that computes the tuple of `outputs`, and nothing beyond them."""
    copied = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        if node.op != "output":
            twins[node] = copied.node_copy(node, twins.__getitem__)
    copied.output(tuple(twins[node] for node in outputs))
    module = fx.GraphModule(graph, copied)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module
