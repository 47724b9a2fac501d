"""SmoothQuant: outlier channels of activations moved into the weights that read them (Xiao et al. 2022, section 4).

`LayerNorm -> Linear` computes `(X / s) (s W)` for any `s > 0` per channel: X's channel j is divided by s_j in the
normalisation's gain and shift, and the weights that read it are multiplied. Equation 4,
`s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)`, splits the difficulty: alpha = 1 moves all of it to the weights.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx

from compress.graph.capture import call_nodes, constant, layer_name, parameter_name
from compress.graph.op_kind import OpKind
from compress.graph.operators import kind_of, weight_of
from compress.quantization.recovery import Batches
from compress.quantization.recovery.channels import Side, largest, scaled, store, stored
from compress.quantization.recovery.watch import channel_statistics
from compress.support.torch_internals import OpOverload

__all__ = ["smooth"]

aten = torch.ops.aten


@dataclass(frozen=True)
class _Site:
    """A normalisation and the linear layers that alone read it."""

    norm: fx.Node
    linears: tuple[fx.Node, ...]


def smooth(graph: fx.GraphModule, batches: Batches, *, alpha: float = 0.5) -> tuple[str, ...]:
    """Smooth a `float_graph` in place; the function it computes stays the same.

    Args:
        graph: captured.
        batches: calibration images; one pass over them.
        alpha: between 0 and 1; the paper finds 0.5 right for most models, and 0.75 where outliers are many.

    Returns:
        Names of the normalisations changed. One without gain and shift, or read by anything but linear layers, is not
        among them.

    Raises:
        ValueError: `alpha` is not within [0, 1].
        StageError: `batches` gives none, or NaN or infinity is met.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    sites = _find_sites(graph)
    seen = channel_statistics(graph, dict.fromkeys((site.norm for site in sites), -1), batches())
    for site in sites:
        _rescale(graph, site, seen[site.norm].peak.double(), alpha)
    return tuple(layer_name(site.norm) for site in sites)


def _rescale(graph: fx.GraphModule, site: _Site, peak: torch.Tensor, alpha: float) -> None:
    weights = [stored(graph, linear.args[1]) for linear in site.linears]
    largest_weight = torch.stack(
        [largest(linear, weight, Side.IN) for linear, weight in zip(site.linears, weights, strict=True)]
    ).amax(0)
    factor = peak**alpha / largest_weight ** (1 - alpha)
    factor = torch.where((peak > 0) & (largest_weight > 0), factor, 1.0)
    for node in site.norm.args[2:4]:
        store(graph, node, stored(graph, node) / factor)
    for linear, weight in zip(site.linears, weights, strict=True):
        store(graph, linear.args[1], scaled(linear, weight, Side.IN, factor))


def _find_sites(graph: fx.GraphModule) -> list[_Site]:
    uses = Counter(str(node.target) for node in graph.graph.find_nodes(op="get_attr") for _ in node.users)
    sites = []
    for norm in call_nodes(graph):
        linears = _readers(norm) if _is_affine(graph, norm) else None
        if linears and all(uses[name] == 1 for name in _parameters(norm, linears)):
            sites.append(_Site(norm, tuple(linears)))
    return sites


def _is_affine(graph: fx.GraphModule, node: fx.Node) -> bool:
    """A layer normalisation over the last axis alone, with gain and shift."""
    if node.target is not aten.layer_norm.default or len(node.args) < 4:
        return False
    gain, shift = (constant(graph, argument) for argument in node.args[2:4])
    return gain is not None and shift is not None and gain.ndim == 1


def _parameters(norm: fx.Node, linears: list[fx.Node]) -> list[str]:
    nodes = (*norm.args[2:4], *(linear.args[1] for linear in linears))
    return [name for name in map(parameter_name, nodes) if name is not None]


def _readers(node: fx.Node) -> list[fx.Node] | None:
    """The linear layers that read `node`, directly or rearranged; None if anything else does."""
    linears: list[fx.Node] = []
    for user in node.users:
        if kind_of(user) is OpKind.LINEAR and weight_of(user) is not None and user.args[0] is node:
            linears.append(user)
            continue
        further = _readers(user) if _keeps_last_axis(user) else None
        if further is None:
            return None
        linears += further
    return linears


def _keeps_last_axis(node: fx.Node) -> bool:
    """Tell whether it only moves or picks along other axes than the last."""
    source = node.args[0] if node.args else None
    value = source.meta.get("val") if isinstance(source, fx.Node) else None
    if not isinstance(value, torch.Tensor):
        return False
    if node.target is aten.contiguous.default:
        return True
    if node.target is aten.permute.default:
        order = node.args[1]
        return (
            isinstance(order, (list, tuple)) and isinstance(order[-1], int) and order[-1] % value.ndim == value.ndim - 1
        )
    moved = {aten.transpose.int: node.args[1:3], aten.select.int: node.args[1:2], aten.slice.Tensor: node.args[1:2]}
    axes = moved.get(node.target, ()) if isinstance(node.target, OpOverload) else ()
    return bool(axes) and all(isinstance(axis, int) and axis % value.ndim != value.ndim - 1 for axis in axes)
