"""Batch normalisation folded into the layer before it: the pairs are read off the captured graph, never guessed.

At inference `BN(conv(x)) = g (W x + b - m) + beta` with `g = gamma / sqrt(var + eps)` per output channel, so
`W' = g W` and `b' = g (b - m) + beta` (Jacob et al. 2018, section 3.2). Zeros in W stay zeros.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import fx, nn

from compress.graph.capture import bind, call_nodes, constant, layer_name, only_user, parameter_name

__all__ = ["Pair", "find_pairs", "fold_graph", "fold_module"]

aten = torch.ops.aten
_BATCH_NORM = aten.batch_norm.default
_DIRECT = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.linear.default)
_TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_GROUPS = 6  # position of `groups` in the transposed convolutions' schema


@dataclass(frozen=True)
class Pair:
    """A layer and the batch normalisation that alone reads its output.

    Attributes:
        layer: the convolution or linear call.
        norm: the `batch_norm` call.
        weight: folded weight, in the layer's own layout and dtype.
        bias: folded bias `[out]`.
    """

    layer: fx.Node
    norm: fx.Node
    weight: torch.Tensor
    bias: torch.Tensor


def find_pairs(graph: fx.GraphModule) -> tuple[list[Pair], list[str]]:
    """Every pair that can be folded, and a line for each normalisation after a layer that cannot, with the reason."""
    pairs, kept = [], []
    for norm in call_nodes(graph):
        layer = norm.args[0] if norm.target is _BATCH_NORM else None
        if not isinstance(layer, fx.Node) or layer.target not in (*_DIRECT, *_TRANSPOSED):
            continue
        reason = _obstacle(graph, layer, norm)
        if reason:
            kept.append(f"{layer_name(norm)} stays: {reason}")
        else:
            pairs.append(Pair(layer, norm, *_folded(graph, layer, norm)))
    return pairs, kept


def fold_graph(graph: fx.GraphModule) -> tuple[int, list[str]]:
    """Fold in place, on the graph.

    Returns:
        The number of normalisations folded, and one line for each that stays, with the reason.
    """
    pairs, kept = find_pairs(graph)
    for pair in pairs:
        _fold_pair(graph, pair)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return len(pairs), kept


def fold_module(module: nn.Module, graph: fx.GraphModule) -> tuple[nn.Module, int, list[str]]:
    """A copy of `module` with its pairs folded and each folded normalisation replaced by `nn.Identity`.

    Args:
        module: the network.
        graph: `capture(module, ...)`.

    Returns:
        The copy, the number of normalisations folded, and one line for each that stays, with the reason.
    """
    folded = copy.deepcopy(module)
    pairs, kept = find_pairs(graph)
    count = 0
    for pair in pairs:
        layer = _module_at(folded, _owner(pair.layer.args[1], "weight"))
        norm = _module_at(folded, _owner(pair.norm.args[3], "running_mean"))
        reason = _module_obstacle(graph, pair, layer, norm)
        if reason:
            kept.append(f"{layer_name(pair.norm)} stays: {reason}")
            continue
        assert layer is not None
        assert norm is not None
        _rewrite_layer(layer, pair)
        _replace_everywhere(folded, norm)
        count += 1
    return folded, count, kept


def _fold_pair(graph: fx.GraphModule, pair: Pair) -> None:
    weight = parameter_name(pair.layer.args[1])
    assert weight is not None
    path, _, attribute = weight.rpartition(".")
    made_up = f"{path}.bias" if attribute == "weight" and path else f"{weight}_bias"
    bias = parameter_name(_argument(pair.layer, 2)) or made_up
    bind(graph, weight, pair.weight, trainable=True)
    bind(graph, bias, pair.bias, trainable=True)
    with graph.graph.inserting_before(pair.layer):
        bias_node = graph.graph.get_attr(bias)
    bias_node.meta["val"] = pair.norm.args[3].meta["val"] if isinstance(pair.norm.args[3], fx.Node) else pair.bias
    pair.layer.args = (*pair.layer.args[:2], bias_node, *pair.layer.args[3:])
    pair.norm.replace_all_uses_with(pair.layer)
    graph.graph.erase_node(pair.norm)


def _obstacle(graph: fx.GraphModule, layer: fx.Node, norm: fx.Node) -> str | None:
    name = layer_name(layer)
    weight = layer.args[1]
    if only_user(layer) is None:
        return f"the output of {name} is also used elsewhere"
    if constant(graph, weight) is None or not isinstance(weight, fx.Node):
        return f"the weight of {name} is computed"
    bias = _argument(layer, 2)
    if _reads(graph, weight) != 1 or (isinstance(bias, fx.Node) and _reads(graph, bias) != 1):
        return f"{name} is used more than once"
    if norm.args[5] is True or constant(graph, norm.args[3]) is None:
        return "it normalises by the statistics of each batch"
    if layer.target is aten.linear.default and norm.meta["val"].ndim != 2:
        return f"{name} and the normalisation work along different axes"
    return None


def _folded(graph: fx.GraphModule, layer: fx.Node, norm: fx.Node) -> tuple[torch.Tensor, torch.Tensor]:
    weight, bias = constant(graph, layer.args[1]), constant(graph, _argument(layer, 2))
    mean, variance = constant(graph, norm.args[3]), constant(graph, norm.args[4])
    assert weight is not None
    assert mean is not None
    assert variance is not None
    epsilon = float(str(norm.args[7]))
    gain, shift = constant(graph, norm.args[1]), constant(graph, norm.args[2])
    factor = (variance.double() + epsilon).rsqrt() * (1.0 if gain is None else gain.double())
    offset = (0.0 if bias is None else bias.double()) - mean.double()
    new_bias = offset * factor + (0.0 if shift is None else shift.double())
    return _scale_outputs(layer, weight, factor), new_bias.to(weight.dtype)


def _scale_outputs(layer: fx.Node, weight: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply output channel c by `factor[c]`: axis 0, or axis 1 within each group of a transposed convolution."""
    groups = int(str(_argument(layer, _GROUPS) or 1)) if layer.target in _TRANSPOSED else 1
    columns = (1,) * (weight.ndim - 2)
    if layer.target in _TRANSPOSED:
        grouped = weight.double().unflatten(0, (groups, -1))  # [groups, in / groups, out / groups, k...]
        scaled: torch.Tensor = (grouped * factor.view(groups, 1, -1, *columns)).flatten(0, 1)
    else:
        scaled = weight.double() * factor.view(-1, 1, *columns)
    return scaled.to(weight.dtype)


def _argument(node: fx.Node, index: int) -> object:
    return node.args[index] if len(node.args) > index else None


def _reads(graph: fx.GraphModule, node: fx.Node) -> int:
    """Count the uses of the parameter that `node` reads, through whatever nodes."""
    return sum(len(other.users) for other in graph.graph.find_nodes(op="get_attr", target=str(node.target)))


def _owner(node: object, attribute: str) -> str | None:
    """Path of the module whose parameter `attribute` the node reads."""
    path, _, name = (parameter_name(node) or "").rpartition(".")
    return path if name == attribute and path else None


def _module_at(module: nn.Module, path: str | None) -> nn.Module | None:
    return None if path is None else module.get_submodule(path)


def _module_obstacle(graph: fx.GraphModule, pair: Pair, layer: nn.Module | None, norm: nn.Module | None) -> str | None:
    """Say why a pair of the graph cannot be folded in the module, which keeps its Python code."""
    if not isinstance(layer, _LAYERS) or not isinstance(norm, _NORMS):
        return "called as a function, it has no module to replace"
    if type(norm).forward is not nn.BatchNorm2d.forward or norm._forward_hooks or norm._forward_pre_hooks:
        return f"{type(norm).__name__} does more than normalise"
    stored = [entry for entry in pair.norm.args[1:5] if isinstance(entry, fx.Node)]
    if any(_reads(graph, entry) != 1 for entry in stored):
        return "it is used more than once"
    if layer.bias is None and not _passes_its_bias(layer):
        return f"{layer_name(pair.layer)} has a forward of its own and no bias to add to"
    return None


def _passes_its_bias(layer: nn.Module) -> bool:
    """Tell whether a bias that the layer is given will be added: its code is PyTorch's."""
    return any(type(layer).forward is kind.forward for kind in _LAYERS)


def _replace_everywhere(module: nn.Module, norm: nn.Module) -> None:
    """Put an identity in every place that holds `norm`: one object may have several names."""
    for path, part in list(module.named_modules(remove_duplicate=False)):
        if part is norm:
            module.set_submodule(path, nn.Identity().eval())


def _rewrite_layer(layer: nn.Module, pair: Pair) -> None:
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    layer.weight = nn.Parameter(pair.weight, requires_grad=weight.requires_grad)
    layer.bias = nn.Parameter(pair.bias, requires_grad=weight.requires_grad)
