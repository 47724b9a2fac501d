"""Small whole powers as products, by squaring: `x ** 5 = x (x^2)^2`. Integer runtimes multiply and have no power."""

from __future__ import annotations

import torch
from torch import fx

from compress.graph.capture import call_nodes
from compress.quantization.integer_forms.writer import Writer

__all__ = ["LARGEST_POWER", "expand_powers"]

aten = torch.ops.aten

LARGEST_POWER = 8
"""Beyond, 8 bits hold little of the result: half of the codes are for the uppermost 8 % of the inputs."""


def expand_powers(graph: fx.GraphModule) -> int:
    """Rewrite squares and powers 1 to `LARGEST_POWER`, and the powers 0.5 and -0.5 by their roots; their number."""
    nodes = [node for node in call_nodes(graph) if _exponent(node) is not None]
    for node in nodes:
        exponent = _exponent(node)
        assert exponent is not None
        write = Writer(graph, node)
        if exponent in _ROOTS:
            write.replace(write(_ROOTS[exponent], write.source))
        else:
            write.replace(_power(write, int(exponent)))
    return len(nodes)


_ROOTS = {0.5: aten.sqrt.default, -0.5: aten.rsqrt.default}


def _exponent(node: fx.Node) -> float | None:
    if node.target is aten.square.default:
        return 2.0
    value = node.args[1] if node.target is aten.pow.Tensor_Scalar else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    is_small = float(value).is_integer() and 1 <= value <= LARGEST_POWER
    return float(value) if is_small or value in _ROOTS else None


def _power(write: Writer, exponent: int) -> fx.Node:
    square, result = write.source, None
    while True:
        if exponent & 1:
            result = square if result is None else write(aten.mul.Tensor, result, square)
        exponent >>= 1
        if not exponent:
            assert result is not None
            return result
        square = write(aten.mul.Tensor, square, square)
