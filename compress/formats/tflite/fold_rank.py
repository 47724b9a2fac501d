"""Tensors of rank five and more with fewer axes: neighbours that no operator takes apart become one.

A YOLO head writes `[N, A x C, H, W]` as `[N, A, C, H, W]`, permutes it to `[N, A, H, W, C]` and works on the last
axis; `H, W` stay next to each other all the way, so the same numbers are `[N, A, C, H W]` and `[N, A, H W, C]`.
LiteRT's operators are newer with five axes, and an Edge TPU has three above one.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
import torch.ao.quantization.fx._decomposed  # registers the Q/DQ operators
from torch import fx

from compress.formats.tflite.specialize import SHAPE
from compress.graph.capture import bind, call_nodes, constant

__all__ = ["fold_ranks"]

aten = torch.ops.aten
_ops = torch.ops.quantized_decomposed
_LARGEST_RANK, _LARGEST_INNER = 4, 3
_DONE = "axis_is_folded"  # on an operator that several nodes are pieces of

_ALIKE = frozenset(
    {
        _ops.quantize_per_tensor.default,
        _ops.dequantize_per_tensor.default,
        *(getattr(aten, name).default for name in ("contiguous", "clone", "sigmoid", "relu", "tanh", "exp", "relu6")),
        *(
            getattr(aten, name).default
            for name in ("hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "clamp", "neg")
        ),
        *(getattr(aten, name).Tensor for name in ("add", "sub", "mul", "div")),
        *(getattr(aten, name).default for name in ("maximum", "minimum")),
        aten.pow.Tensor_Scalar,
    }
)
"""Operators on every number alike; several inputs are broadcast."""

_PERMUTE = frozenset({aten.permute.default, aten.transpose.int})
_ALONG: dict[object, int] = {
    aten.slice.Tensor: 1,
    aten.cat.default: 1,
    aten.softmax.int: 1,
    aten.split.Tensor: 2,
    aten.select.int: 1,
}
_ALONG.update({aten.split_with_sizes.default: 2, aten.chunk.default: 2})
"""Operators along one axis, and the argument that names it."""

Axis = tuple[fx.Node, int]


@dataclass
class _Axes:
    """Sets of axes of nodes that are the same, and the axes that must stay alone (union-find)."""

    parent: dict[Axis, Axis] = field(default_factory=dict)
    alone: set[Axis] = field(default_factory=set)

    def root(self, axis: Axis) -> Axis:
        while (above := self.parent.get(axis, axis)) != axis:
            axis = above
        return axis

    def join(self, first: Axis, second: Axis) -> None:
        first, second = self.root(first), self.root(second)
        if first != second:
            self.parent[first] = second
            if first in self.alone:
                self.alone.add(second)

    def keep(self, axis: Axis) -> None:
        self.alone.add(self.root(axis))


def fold_ranks(graph: fx.GraphModule) -> None:
    """Rewrite, in place, every set of connected tensors that can do with four axes; the others stay.

    Needs a graph for a batch of one (`specialize`).
    """
    nodes = [node for node in graph.graph.nodes if _rank(node) > _LARGEST_RANK]
    axes = _Axes()
    for node in nodes:
        _relate(node, axes)
    for node in call_nodes(graph):
        if node not in nodes:
            _leave(node, axes)
    for part in _parts(nodes, axes):
        groups = _grouped(part, axes)
        if groups is not None:
            _apply(graph, part, groups)
    graph.graph.lint()
    graph.recompile()


def _shape(node: object) -> tuple[int, ...]:
    shape = node.meta.get(SHAPE) if isinstance(node, fx.Node) else None
    return shape if isinstance(shape, tuple) else ()


def _rank(node: object) -> int:
    return len(_shape(node))


def _whole(node: fx.Node) -> fx.Node:
    """The operator along an axis: for a piece of a split, the split."""
    source = node.args[0] if node.target is operator.getitem else None
    return source if isinstance(source, fx.Node) else node


def _tensors(node: fx.Node) -> list[fx.Node]:
    """List the tensors of high rank that a node reads."""
    return [source for source in _whole(node).all_input_nodes if _rank(source) > _LARGEST_RANK]


def _relate(node: fx.Node, axes: _Axes) -> None:
    """Note what `node`, whose result has a high rank, says about its axes and those of what it reads."""
    target, sources = _whole(node).target, _tensors(node)
    if node.op == "get_attr" or target is aten.reshape.default:
        return
    if target in _ALIKE:
        for source in sources:
            for axis in range(_rank(source)):
                axes.join((source, axis), (node, axis + _rank(node) - _rank(source)))
        lower = [_shape(other) for other in node.all_input_nodes if 0 < _rank(other) <= _LARGEST_RANK]
        for axis in range(max((len(shape) for shape in lower if math.prod(shape) > 1), default=0)):
            axes.keep((node, _rank(node) - 1 - axis))
    elif target in _PERMUTE:
        for axis, source_axis in enumerate(_order(node)):
            axes.join((sources[0], source_axis), (node, axis))
    elif target in _ALONG and target is not aten.select.int:
        along = _axis(_whole(node), _rank(node))
        axes.keep((node, along))
        for source in sources:
            axes.keep((source, along))
            for axis in range(_rank(node)):
                if axis != along:
                    axes.join((source, axis), (node, axis))
    else:
        for other in (node, *sources):
            for axis in range(_rank(other)):
                axes.keep((other, axis))


def _leave(node: fx.Node, axes: _Axes) -> None:
    """Note what an operator whose result has a low rank says about what it reads."""
    if node.target is aten.reshape.default or any(user.target is operator.getitem for user in node.users):
        return
    for source in _tensors(node):
        chosen = [_axis(node, _rank(source))] if node.target is aten.select.int else range(_rank(source))
        for axis in chosen:
            axes.keep((source, axis))


def _order(node: fx.Node) -> list[int]:
    rank = _rank(node)
    if node.target is aten.permute.default:
        return [int(axis) % rank for axis in _integers(node.args[1])]
    order = list(range(rank))
    first, second = (int(str(axis)) % rank for axis in node.args[1:3])
    order[first], order[second] = second, first
    return order


def _integers(values: object) -> list[int]:
    return [value for value in values if isinstance(value, int)] if isinstance(values, (list, tuple)) else []


def _axis(node: fx.Node, rank: int) -> int:
    index = _ALONG[node.target]
    value = node.args[index] if len(node.args) > index else node.kwargs.get("dim", 0)
    return int(str(value)) % rank


def _parts(nodes: Iterable[fx.Node], axes: _Axes) -> list[list[fx.Node]]:
    """Nodes that have axes in common, or are made of each other along one."""
    parts: list[list[fx.Node]] = []
    for node in nodes:
        roots = {axes.root((node, axis)) for axis in range(_rank(node))}
        joined = [
            part for part in parts if any(axes.root((other, i)) in roots for other in part for i in range(_rank(other)))
        ]
        parts = [part for part in parts if part not in joined]
        parts.append([*(other for part in joined for other in part), node])
    return parts


Groups = dict[fx.Node, list[list[int]]]
"""The old axes of each of a node's new axes."""


def _grouped(part: list[fx.Node], axes: _Axes) -> Groups | None:
    groups: Groups = {node: [[axis] for axis in range(_rank(node))] for node in part}
    while not all(_fits(node, groups[node]) for node in part):
        pair = next(_pairs(part, groups, axes), None)
        if pair is None:
            break
        for node in part:
            _merge(node, groups, axes, pair)
    low = all(len(group) <= _LARGEST_RANK for group in groups.values())
    return groups if low else None


def _fits(node: fx.Node, groups: list[list[int]]) -> bool:
    sizes = [math.prod(_shape(node)[axis] for axis in group) for group in groups]
    return len(sizes) <= _LARGEST_RANK and sum(size > 1 for size in sizes) <= _LARGEST_INNER


def _pairs(part: list[fx.Node], groups: Groups, axes: _Axes) -> Iterator[tuple[Axis, Axis]]:
    """Neighbours that may become one: next to each other wherever one of them is; those above one first."""
    pairs: list[tuple[bool, tuple[Axis, Axis]]] = []
    for node in part:
        for left, right in zip(groups[node], groups[node][1:], strict=False):
            pair = (axes.root((node, left[-1])), axes.root((node, right[0])))
            sizes = [math.prod(_shape(node)[axis] for axis in group) for group in (left, right)]
            if pair not in [other for _, other in pairs] and _may_merge(part, groups, axes, pair):
                pairs.append((min(sizes) == 1, pair))
    yield from (pair for _, pair in sorted(pairs, key=lambda entry: entry[0]))


def _may_merge(part: list[fx.Node], groups: Groups, axes: _Axes, pair: tuple[Axis, Axis]) -> bool:
    if axes.alone.intersection(pair):
        return False
    for node in part:
        ends = [[axes.root((node, group[end])) for group in groups[node]] for end in (-1, 0)]
        if pair[0] not in ends[0] and pair[1] not in ends[1]:
            continue
        if pair[0] not in ends[0] or pair[1] not in ends[1]:
            return False
        left, right = ends[0].index(pair[0]), ends[1].index(pair[1])
        if right != left + 1 or not _is_whole(node, groups[node][left] + groups[node][right], axes):
            return False
    return True


def _is_whole(node: fx.Node, merged: list[int], axes: _Axes) -> bool:
    """Tell whether the axes are broadcast together, or not at all."""
    ones = [_shape(node)[axis] == 1 < _full(axes, (node, axis)) for axis in merged]
    return all(ones) or not any(ones)


def _full(axes: _Axes, axis: Axis) -> int:
    """The size of an axis where it is not broadcast."""
    root = axes.root(axis)
    members = [other for other in (*axes.parent, root) if axes.root(other) == root]
    return max(_shape(node)[index] for node, index in members)


def _merge(node: fx.Node, groups: Groups, axes: _Axes, pair: tuple[Axis, Axis]) -> None:
    old = groups[node]
    for index in range(len(old) - 1):
        if (axes.root((node, old[index][-1])), axes.root((node, old[index + 1][0]))) == pair:
            groups[node] = [*old[:index], old[index] + old[index + 1], *old[index + 2 :]]
            return


def _apply(graph: fx.GraphModule, part: list[fx.Node], groups: Groups) -> None:
    shapes = {node: tuple(math.prod(_shape(node)[axis] for axis in group) for group in groups[node]) for node in part}
    for node in part:
        _rewrite(graph, node, groups, shapes[node])
        for user in [*node.users]:
            if user.target is aten.select.int and user not in groups:
                _select(graph, user, groups[node])
    for node in part:
        node.meta[SHAPE], node.meta["val"] = shapes[node], torch.empty(shapes[node], device="meta")


def _rewrite(graph: fx.GraphModule, node: fx.Node, groups: Groups, shape: tuple[int, ...]) -> None:
    whole = _whole(node)
    if node.op == "get_attr":
        values = constant(graph, node)
        assert values is not None
        name = f"{node.target}_of_rank_{len(shape)}"
        bind(graph, name, values.reshape(shape), trainable=False)
        node.target = name
    elif node.target is aten.reshape.default:
        node.args = (node.args[0], [*shape])
    elif node.target in _PERMUTE:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        order = _order(node)
        before = {group[0]: index for index, group in enumerate(groups[source])}
        node.target = aten.permute.default
        node.args = (source, [before[order[group[0]]] for group in groups[node]])
    elif whole.target in _ALONG and not whole.meta.get(_DONE):
        _set_axis(whole, _position(groups[node], _axis(whole, _rank(node))))
        whole.meta[_DONE] = True


def _select(graph: fx.GraphModule, node: fx.Node, groups: list[list[int]]) -> None:
    """One index along an axis of a folded tensor; the result gets the axes that it had."""
    rank = sum(len(group) for group in groups)
    _set_axis(node, _position(groups, _axis(node, rank)))
    with graph.graph.inserting_after(node):
        result = graph.graph.call_function(aten.reshape.default, (node, [*_shape(node)]))
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)


def _set_axis(node: fx.Node, axis: int) -> None:
    index = _ALONG[node.target]
    kept = {name: value for name, value in node.kwargs.items() if name != "dim"}
    defaults = [*node.args[:index], *((0,) if len(node.args) < index else ())]
    node.args, node.kwargs = (*defaults[:index], axis, *node.args[index + 1 :]), kept


def _position(groups: list[list[int]], axis: int) -> int:
    return next(index for index, group in enumerate(groups) if axis in group)
