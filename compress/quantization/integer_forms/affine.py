"""A gain and an offset per channel, `g x + b`: the normalisation of pictures inside a model, layer scale, a division.

Numbers stand for whole chains of products, sums, differences and quotients with stored numbers. Such a chain goes into
the convolution before it, or into the one behind it: with an offset only where that one pads nothing, because its zeros
would stand for pictures of the value -b / g. Where neither takes it, it is a depthwise convolution of size 1, which has
a kernel, with 127 steps and a 32-bit offset for each channel. A quotient elsewhere is the product with the reciprocal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from compress.graph.capture import bind, call_nodes, constant, only_user
from compress.graph.operators import bias_of, groups_of
from compress.quantization.integer_forms.stored import rewritable, set_layer, stored_value

__all__ = ["fold_affine"]

aten = torch.ops.aten

_CONVS = (aten.conv2d.default,)
_ARITHMETIC = (aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.rsub.Scalar, aten.neg.default)


@dataclass(frozen=True)
class _Chain:
    """`gain x + offset`, float64 `[C]`.

    Attributes:
        source: x, `[N, C, H, W]`.
        last: the node that has the result.
        per_channel: whether some number differs between channels.
    """

    source: fx.Node
    last: fx.Node
    gain: torch.Tensor
    offset: torch.Tensor
    per_channel: bool


def fold_affine(graph: fx.GraphModule) -> int:
    """Rewrite, in place, every chain at the input and every one with numbers per channel; how many there were."""
    count = 0
    while (chain := next(_chains(graph), None)) is not None:
        if not (_into_the_one_before(graph, chain) or _into_the_one_behind(graph, chain)):
            _as_depthwise(graph, chain)
        graph.graph.eliminate_dead_code()  # the chain is one reader of its source less
        count += 1
    return count + _multiply_instead(graph)


def _chains(graph: fx.GraphModule) -> Iterator[_Chain]:
    for node in call_nodes(graph):
        chain = _chain(graph, node)
        if chain is not None and (chain.per_channel or chain.source.op == "placeholder"):
            yield chain


def _chain(graph: fx.GraphModule, first: fx.Node) -> _Chain | None:
    """The longest chain that begins with `first`; None where it is no step, or one in the middle of a chain."""
    step = _step(graph, first)
    if step is None:
        return None
    source = step[0]
    if _step(graph, source) is not None and only_user(source) is first:
        return None
    channels = first.meta["val"].shape[1]
    gain, offset = torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    node, per_channel = first, False
    while True:
        _, factor, shift = step
        gain, offset = gain * factor, offset * factor + shift
        per_channel |= factor.numel() > 1 or shift.numel() > 1
        user = only_user(node)
        step = None if user is None else _step(graph, user)
        if user is None or step is None or step[0] is not node:
            return _Chain(source, node, gain, offset, per_channel)
        node = user


def _step(graph: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, torch.Tensor, torch.Tensor] | None:
    """Activation, factor and shift (float64, `[1]` or `[C]`) of one operator on images and stored numbers."""
    if node.target not in _ARITHMETIC or node.meta["val"].ndim != 4:
        return None
    if node.target is aten.neg.default:
        return (node.args[0], _one(-1.0), _one(0.0)) if isinstance(node.args[0], fx.Node) else None
    operands = [_numbers(graph, argument, node) for argument in node.args[:2]]
    if (operands[0] is None) == (operands[1] is None):
        return None
    position = 0 if operands[0] is None else 1
    source, numbers = node.args[position], operands[1 - position]
    assert isinstance(source, fx.Node)
    assert numbers is not None
    if source.meta["val"].shape != node.meta["val"].shape or not source.meta["val"].is_floating_point():
        return None
    scaled = float(str(node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)))
    match node.target:
        case aten.mul.Tensor:
            return source, numbers, _one(0.0)
        case aten.div.Tensor:
            return None if position else (source, 1 / numbers, _one(0.0))
        case aten.add.Tensor:
            return (source, _one(scaled), numbers) if position else (source, _one(1.0), scaled * numbers)
        case aten.sub.Tensor:
            return (source, _one(-scaled), numbers) if position else (source, _one(1.0), -scaled * numbers)
        case _:  # rsub: other - alpha * source
            return source, _one(-scaled), numbers


def _one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def _numbers(graph: fx.GraphModule, argument: object, node: fx.Node) -> torch.Tensor | None:
    """A number, or a stored tensor with one number for all or one for each channel; finite, `[1]` or `[C]`."""
    if isinstance(argument, (int, float)):
        return _one(float(argument))
    values = stored_value(graph, argument)
    if values is None or not values.is_floating_point() or not bool(values.isfinite().all()):
        return None
    channels = node.meta["val"].shape[1]
    per_channel = values.numel() == channels and values.ndim in (3, 4) and values.shape[-3] == channels
    return values.double().reshape(-1) if values.numel() == 1 or per_channel else None


def _into_the_one_before(graph: fx.GraphModule, chain: _Chain) -> bool:
    """`g (W x + c) + b = (g W) x + (g c + b)`."""
    conv = chain.source
    if conv.target not in _CONVS or not rewritable(graph, conv) or only_user(conv) is None:
        return False
    weight, bias = constant(graph, conv.args[1]), constant(graph, bias_of(conv))
    assert weight is not None
    shift = chain.offset if bias is None else chain.gain * bias.double() + chain.offset
    set_layer(graph, conv, weight.double() * chain.gain.reshape(-1, 1, 1, 1), shift)
    chain.last.replace_all_uses_with(conv)
    return True


def _into_the_one_behind(graph: fx.GraphModule, chain: _Chain) -> bool:
    """`W (g x + b) + c = (W g) x + (W b + c)`, where the convolution sees nothing but x."""
    conv = only_user(chain.last)
    if conv is None or conv.target not in _CONVS or conv.args[0] is not chain.last or not rewritable(graph, conv):
        return False
    if bool(chain.offset.any()) and _pads(conv):
        return False
    weight, bias = constant(graph, conv.args[1]), constant(graph, bias_of(conv))
    assert weight is not None
    groups = groups_of(conv)
    grouped = weight.double().unflatten(0, (groups, -1))  # [groups, out / groups, in / groups, kh, kw]
    gain, offset = (part.reshape(groups, 1, -1, 1, 1) for part in (chain.gain, chain.offset))
    shift = (grouped * offset).sum((2, 3, 4)).reshape(-1)
    set_layer(graph, conv, (grouped * gain).flatten(0, 1), shift if bias is None else shift + bias.double())
    conv.replace_input_with(chain.last, chain.source)
    return True


def _pads(conv: fx.Node) -> bool:
    padding = conv.args[4] if len(conv.args) > 4 else 0
    return any(padding) if isinstance(padding, (list, tuple)) else bool(padding)


def _as_depthwise(graph: fx.GraphModule, chain: _Chain) -> None:
    example, name = chain.last.meta["val"], f"{chain.last.name}_affine"
    channels = example.shape[1]
    bind(graph, f"{name}_weight", chain.gain.to(example.dtype).reshape(-1, 1, 1, 1), trainable=True)
    bind(graph, f"{name}_bias", chain.offset.to(example.dtype), trainable=True)
    with graph.graph.inserting_after(chain.last):
        stored = [graph.graph.get_attr(f"{name}_{part}") for part in ("bias", "weight")][::-1]
    for node, shape in zip(stored, ((channels, 1, 1, 1), (channels,)), strict=True):
        node.meta["val"] = example.new_empty(shape)
    with graph.graph.inserting_after(max(stored)):
        conv = graph.graph.call_function(aten.conv2d.default, (chain.source, *stored, [1, 1], [0, 0], [1, 1], channels))
    conv.meta = dict(chain.last.meta)
    chain.last.replace_all_uses_with(conv)


def _multiply_instead(graph: fx.GraphModule) -> int:
    """Quotients that are left: by a number or a stored tensor, the product with the reciprocal."""
    quotients = [node for node in call_nodes(graph) if node.target is aten.div.Tensor]
    count = 0
    for node in quotients:
        source, divisor = node.args[:2]
        values = torch.tensor(float(divisor)) if isinstance(divisor, (int, float)) else stored_value(graph, divisor)
        if not isinstance(source, fx.Node) or values is None or stored_value(graph, source) is not None:
            continue
        if not values.is_floating_point() or not bool((1 / values).isfinite().all()):
            continue
        node.target = aten.mul.Tensor
        if isinstance(divisor, (int, float)):
            node.args = (source, 1 / divisor)
        else:
            node.args = (source, _stored(graph, node, (1 / values.double()).to(values.dtype)))
        count += 1
    return count


def _stored(graph: fx.GraphModule, node: fx.Node, values: torch.Tensor) -> fx.Node:
    name = f"{node.name}_reciprocal"
    bind(graph, name, values, trainable=False)
    with graph.graph.inserting_before(node):
        stored = graph.graph.get_attr(name)
    stored.meta["val"] = node.meta["val"].new_empty(values.shape)
    return stored
