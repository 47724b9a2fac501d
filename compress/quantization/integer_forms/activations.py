"""Smooth activations out of sigmoid, tanh, products and reciprocal square roots, by identities and not by fits.

    elu(x)      = relu(x) + expm1(min(x, 0)),  expm1(m) = 2 t / (1 - t)  with t = tanh(m / 2)
    mish(x)     = x tanh(log(1 + e^x)) = 2 x (1 / (1 + u^2) - 1 / 2)     with u = sigmoid(-x)
    softplus(x) = relu(x) - log(sigmoid(|x|))
    gelu(x)     = x sigmoid(x (1.5957691 + 0.0713548 x^2))               (`approximate="tanh"`: that very function)

A quotient 1 / v with v in [1, 2] is rsqrt(v)^2. Every intermediate tensor is bounded or grows as its input does, so
that 8 bits suffice for it: no exponential of a positive number, no logarithm of what may be zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import fx

from compress.graph.capture import call_nodes
from compress.quantization.integer_forms.writer import Writer

__all__ = [
    "expand_absolutes",
    "expand_elus",
    "expand_gelus",
    "expand_mishes",
    "expand_scaled_elus",
    "expand_softpluses",
]

aten = torch.ops.aten

_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805
"""Klambauer et al. 2017, as PyTorch stores them."""

_GELU_LINEAR = 2 * math.sqrt(2 / math.pi)
_GELU_CUBIC = _GELU_LINEAR * 0.044715
"""Hendrycks & Gimpel 2016: 0.5 (1 + tanh(y)) is sigmoid(2 y)."""


def expand_scaled_elus(graph: fx.GraphModule) -> int:
    """SELU, CELU and ELU with factors of its own, with a plain ELU of what is not positive, which has a table."""
    plain = (1.0, 1.0, 1.0)
    elus = {node: factors for node, factors in _elus(graph).items() if factors != plain}
    for node, factors in elus.items():
        _write_elu(Writer(graph, node), factors, lambda write, negative: write(aten.elu.default, negative))
    return len(elus)


def expand_elus(graph: fx.GraphModule) -> int:
    """The whole family of ELU, for devices without its table."""
    elus = _elus(graph)
    for node, factors in elus.items():
        _write_elu(Writer(graph, node), factors, _expm1)
    return len(elus)


def _write_elu(write: Writer, factors: tuple[float, float, float], curve: Callable[[Writer, fx.Node], fx.Node]) -> None:
    """`scale relu(x) + scale alpha curve(input_scale min(x, 0))`."""
    alpha, scale, input_scale = factors
    positive = write(aten.relu.default, write.source)
    negative = write(aten.sub.Tensor, write.source, positive)  # min(x, 0)
    bent = curve(write, write.scaled(negative, input_scale))
    write.replace(write(aten.add.Tensor, write.scaled(positive, scale), write.scaled(bent, scale * alpha)))


def _expm1(write: Writer, negative: fx.Node) -> fx.Node:
    """`2 t / (1 - t)` with `t = tanh(m / 2)`."""
    half = write(aten.tanh.default, write.scaled(negative, 0.5))
    root = write(aten.rsqrt.default, write(aten.sub.Tensor, write.number(1.0), half))
    return write.scaled(write(aten.mul.Tensor, half, write(aten.mul.Tensor, root, root)), 2.0)


def expand_mishes(graph: fx.GraphModule) -> int:
    """Mish (Misra 2019)."""
    nodes = [node for node in call_nodes(graph) if node.target is aten.mish.default]
    for node in nodes:
        write = Writer(graph, node)
        gate = write(aten.sigmoid.default, write.scaled(write.source, -1.0))
        root = write(aten.rsqrt.default, write(aten.add.Tensor, write(aten.mul.Tensor, gate, gate), 1.0))
        factor = write(aten.sub.Tensor, write(aten.mul.Tensor, root, root), 0.5)
        write.replace(write(aten.mul.Tensor, write.scaled(write.source, 2.0), factor))
    return len(nodes)


def expand_softpluses(graph: fx.GraphModule) -> int:
    """Softplus and its negative, log-sigmoid."""
    nodes = [node for node in call_nodes(graph) if node.target in (aten.softplus.default, aten.log_sigmoid.default)]
    for node in nodes:
        write = Writer(graph, node)
        beta = _number(node, 1, 1.0) if node.target is aten.softplus.default else 1.0
        size = write(aten.abs.default, write.scaled(write.source, beta))
        logarithm = write(aten.log.default, write(aten.sigmoid.default, size))
        positive = write(aten.relu.default, write.source)
        if node.target is aten.softplus.default:
            write.replace(write(aten.sub.Tensor, positive, write.scaled(logarithm, 1 / beta)))
        else:
            write.replace(write(aten.add.Tensor, write(aten.sub.Tensor, write.source, positive), logarithm))
    return len(nodes)


def expand_gelus(graph: fx.GraphModule) -> int:
    """GELU with `approximate="tanh"`; the one with the error function is another function and stays."""
    nodes = [
        node
        for node in call_nodes(graph)
        if node.target is aten.gelu.default and "tanh" in (*node.args[1:], *node.kwargs.values())
    ]
    for node in nodes:
        write = Writer(graph, node)
        square = write(aten.mul.Tensor, write.source, write.source)
        slope = write(aten.add.Tensor, write.scaled(square, _GELU_CUBIC), _GELU_LINEAR)
        gate = write(aten.sigmoid.default, write(aten.mul.Tensor, write.source, slope))
        write.replace(write(aten.mul.Tensor, write.source, gate))
    return len(nodes)


def expand_absolutes(graph: fx.GraphModule) -> int:
    """`|x| = max(x, -x)`."""
    nodes = [node for node in call_nodes(graph) if node.target is aten.abs.default]
    for node in nodes:
        write = Writer(graph, node)
        write.replace(write(aten.maximum.default, write.source, write.scaled(write.source, -1.0)))
    return len(nodes)


def _elus(graph: fx.GraphModule) -> dict[fx.Node, tuple[float, float, float]]:
    """Alpha, scale and input scale of every member of ELU's family."""
    return {node: factors for node in call_nodes(graph) if (factors := _factors(node)) is not None}


def _factors(node: fx.Node) -> tuple[float, float, float] | None:
    """Those of one; None for any other node."""
    if node.target is aten.elu.default:
        return _number(node, 1, 1.0), _number(node, 2, 1.0), _number(node, 3, 1.0)
    if node.target is aten.selu.default:
        return _SELU_ALPHA, _SELU_SCALE, 1.0
    if node.target is aten.celu.default:
        alpha = _number(node, 1, 1.0)
        return alpha, 1.0, 1 / alpha
    return None


def _number(node: fx.Node, index: int, default: float) -> float:
    value = node.args[index] if len(node.args) > index else default
    assert isinstance(value, (int, float))
    return float(value)
