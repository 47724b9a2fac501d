"""Joined tensors (by a concatenation, a padding by a number) that share one integer grid: what calibration measured
decides, and no order of nodes.

A kernel that joins moves integers, so its inputs have its output's grid, or are requantized to it first. Rounding to a
grid of step s adds noise of s^2 / 12 for whatever reads the tensor. Let a tensor of step a have `n` readers, `e` of
them joins of step b, and these `k` readers of their own; m is the step of the grid that covers both. Sharing

    costs nothing if    (n - e + k) m^2  <=  n a^2 + k b^2

because those `e` readers are spared one of two roundings. A tensor that only the join reads (e = n) takes the join's
grid as it is: beyond that range the join would clip it all the same. Groups grow by such pairs, cheapest first. A grid
that a kernel fixes (sigmoid, softmax) neither grows nor is taken over, but by a join whose inputs all have that grid.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import fx

from compress.quantization.grid import Grid
from compress.quantization.tensor_quantizer import Follower, TensorQuantizer

__all__ = ["narrow_parts", "share_where_free"]

_FEW_CODES = 8
"""Integers below which a joined tensor is named: what 3 bits can tell apart."""


@dataclass(frozen=True)
class _Edge:
    """A tensor that a join reads."""

    part: TensorQuantizer
    join: TensorQuantizer


@dataclass(eq=False)
class _Group:
    """Tensors of one grid.

    Attributes:
        low, high: smallest and largest real value on the grid.
        readers: operators that read one of the tensors, each for itself.
        is_fixed: a kernel has the grid built in.
    """

    members: list[TensorQuantizer]
    scale: torch.Tensor
    zero_point: torch.Tensor
    low: float
    high: float
    readers: int
    is_fixed: bool

    @property
    def noise(self) -> float:
        """Noise that its readers see, in units of 1/12."""
        return self.readers * float(self.scale) ** 2

    def covers(self, other: _Group, *, steps: float = 0.5) -> bool:
        """Tell whether its grid clips no value of `other` by more than `steps`; by default, no more than a rounding."""
        margin = steps * float(self.scale)
        return self.low - margin <= other.low and other.high <= self.high + margin

    def take(self, other: _Group) -> None:
        """Have the grid of `other`."""
        self.scale, self.zero_point, self.is_fixed = other.scale, other.zero_point, other.is_fixed
        self.low, self.high = other.low, other.high


Groups = dict[TensorQuantizer, _Group]


def share_where_free(prepared: fx.GraphModule) -> None:
    """Give the tensors around joins, in place, one grid where that costs nothing; elsewhere a join requantizes."""
    edges = _edges(prepared)
    readers = _readers(prepared) if edges else Counter[TensorQuantizer]()
    groups = {end: _alone(end, readers[end]) for edge in edges for end in (edge.part, edge.join)}
    _keep_fixed(edges, groups)
    while _grow(edges, groups):
        pass
    for quantizer, group in groups.items():
        quantizer.adopt(group.scale, group.zero_point)


def narrow_parts(prepared: fx.GraphModule) -> list[str]:
    """A sentence for each joined tensor that keeps hardly any precision beside the others, by the ranges measured."""
    narrow = []
    for edge in dict.fromkeys(_edges(prepared)):
        low, high = edge.part.own_range()
        codes = round((high - low) / float(edge.join.calculate_qparams()[0])) + 1
        if codes < _FEW_CODES:
            narrow.append(f"{edge.join.name} keeps {codes} integers for {edge.part.name}: another part is far larger")
    return narrow


def _edges(prepared: fx.GraphModule) -> list[_Edge]:
    """One for each time that a tensor is joined, in execution order."""
    edges = []
    for node in prepared.graph.find_nodes(op="call_module"):
        join, source = _quantizer(prepared, node), node.args[0]
        if join is not None and join.joins and isinstance(source, fx.Node) and not _follows(prepared, node):
            parts = [_quantizer(prepared, part) for part in source.all_input_nodes]
            edges += [_Edge(part, join) for part in parts if part is not None and part is not join]
    return edges


def _quantizer(prepared: fx.GraphModule, node: fx.Node) -> TensorQuantizer | None:
    module = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
    module = module.leader if isinstance(module, Follower) else module
    return module if isinstance(module, TensorQuantizer) else None


def _follows(prepared: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(prepared.get_submodule(str(node.target)), Follower)


def _readers(prepared: fx.GraphModule) -> Counter[TensorQuantizer]:
    """Count the operators that read each tensor or the same integers rearranged; rearranging does not count."""
    readers: Counter[TensorQuantizer] = Counter()
    for node in prepared.graph.find_nodes(op="call_module"):
        quantizer = _quantizer(prepared, node)
        if quantizer is not None:
            rearranged = [
                user for user in node.users if any(_quantizer(prepared, after) is quantizer for after in user.users)
            ]
            readers[quantizer] += len(node.users) - len(rearranged)
    return readers


def _alone(quantizer: TensorQuantizer, readers: int) -> _Group:
    scale, zero_point = quantizer.calculate_qparams()
    low, high = _ends(quantizer.grid, scale, zero_point)
    return _Group([quantizer], scale, zero_point, low, high, readers, quantizer.is_fixed)


def _ends(grid: Grid, scale: torch.Tensor, zero_point: torch.Tensor) -> tuple[float, float]:
    step, zero = float(scale), int(zero_point)
    return (grid.minimum - zero) * step, (grid.maximum - zero) * step


def _keep_fixed(edges: list[_Edge], groups: Groups) -> None:
    """A join of nothing but tensors on one fixed grid has that grid; joins of such joins, too.

    It covers them but for the last step, which it is short of by design: a sigmoid's ends at 255/256.
    """
    parts: dict[TensorQuantizer, list[_Group]] = {}
    for edge in edges:
        parts.setdefault(edge.join, []).append(groups[edge.part])
    for join, inputs in parts.items():
        grids = {(float(group.scale), int(group.zero_point)) for group in inputs}
        if len(grids) == 1 and all(group.is_fixed for group in inputs) and inputs[0].covers(groups[join], steps=1.5):
            groups[join].take(inputs[0])


def _grow(edges: list[_Edge], groups: Groups) -> bool:
    """Unite pairs of groups, each group once, in place; False if there was none to unite."""
    between: dict[tuple[_Group, _Group], int] = {}
    for edge in edges:
        pair = (groups[edge.part], groups[edge.join])
        if pair[0] is not pair[1] and not pair[0].is_fixed and not pair[1].is_fixed:
            between[pair] = between.get(pair, 0) + 1
    unions = [union for (part, join), count in between.items() if (union := _union(part, join, count))]
    united: set[_Group] = set()
    for part, join, both in sorted(unions, key=_relative_noise):
        if part not in united and join not in united:
            united |= {part, join}
            groups.update(dict.fromkeys(both.members, both))
    return bool(united)


def _union(part: _Group, join: _Group, count: int) -> tuple[_Group, _Group, _Group] | None:
    """Both as one group, where that costs nothing; `count` readers of `part` are joins in `join`."""
    union = _Group(
        [*part.members, *join.members],
        *(join.scale, join.zero_point, join.low, join.high),
        readers=part.readers - count + join.readers,
        is_fixed=False,
    )
    if count == part.readers or join.covers(part):
        pass
    elif part.covers(join):
        union.take(part)
    else:
        _span(union, min(part.low, join.low), max(part.high, join.high))
    return (part, join, union) if union.noise <= part.noise + join.noise else None


def _span(union: _Group, low: float, high: float) -> None:
    grid = union.members[0].grid
    scale, zero_point = grid.parameters(torch.tensor(low), torch.tensor(high))
    union.scale, union.zero_point = scale, zero_point
    union.low, union.high = _ends(grid, scale, zero_point)


def _relative_noise(union: tuple[_Group, _Group, _Group]) -> tuple[float, ...]:
    """The order of uniting; ranges decide, so that the order of nodes does not."""
    part, join, both = union
    return both.noise / (part.noise + join.noise or 1.0), float(part.scale), part.low, float(join.scale), join.low
