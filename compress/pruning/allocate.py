"""How many units each group gives up so that the network meets a budget."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from compress.errors import StageError
from compress.pruning.budget import Budget
from compress.pruning.cost import Cost, total
from compress.pruning.groups import Group
from compress.pruning.shapes import LayerShape

__all__ = ["Candidate", "Damage", "Plan", "allocate", "candidates", "even", "relative_importance"]

_SLACK = 0.02
"""A step that would end this far (of the budget) below it is left for a smaller one."""
_LEAST_SAVING = 1e-12  # of the cost: a step that saves nothing goes last


@dataclass(frozen=True, eq=False)
class Candidate:
    """A group with the order in which its units would go.

    Attributes:
        order: units, least important first.
        importance: `[units]`, of each unit in that order.
        steps: numbers of removed units it may stop at, ascending, 0 excluded; each leaves channels in whole multiples.
    """

    group: Group
    order: tuple[int, ...]
    importance: tuple[float, ...]
    steps: tuple[int, ...]


Damage = Callable[[Candidate, int, int], float]
"""`damage(candidate, before, after)`: what removing units `before` to `after` (in order) is thought to cost."""


@dataclass(frozen=True)
class Plan:
    """Units to remove from each group, by group name, and the network's cost without them."""

    removed: Mapping[str, tuple[int, ...]]
    after: float


def candidates(
    groups: Sequence[Group], importance: Mapping[str, torch.Tensor], *, multiple: int, max_removed: float
) -> list[Candidate]:
    """The groups with somewhere to stop.

    Args:
        importance: `[units]` by group name.
        multiple: channels are left in multiples of this.
        max_removed: largest share of a group's units that may go.
    """
    made = []
    for group in groups:
        scores = importance[group.name].double()
        order = torch.argsort(scores, stable=True)
        steps = _steps(group, multiple, max_removed)
        if steps:
            made.append(Candidate(group, tuple(order.tolist()), tuple(scores[order].tolist()), steps))
    return made


def _steps(group: Group, multiple: int, max_removed: float) -> tuple[int, ...]:
    at_once = multiple // math.gcd(multiple, group.width)
    most = min(math.floor(max_removed * group.units + 1e-9), group.units - 1)
    first = group.units % at_once or at_once
    return tuple(range(first, most + 1, at_once))


def even(candidate: Candidate, before: int, after: int) -> float:
    """Damage by which all groups keep the same share of their units."""
    return after / candidate.group.units


def relative_importance(candidate: Candidate, before: int, after: int) -> float:
    """Importance of what goes as a share of what was left, as in LAMP (Lee et al. 2021, eq. 2).

    Comparable between layers of any scale, and it grows as a layer gets thin.
    """
    left = sum(candidate.importance[before:])
    return sum(candidate.importance[before:after]) / left if left > 0 else 0.0


def allocate(
    found: Sequence[Candidate],
    shapes: Mapping[str, LayerShape],
    budget: Budget,
    damage: Damage,
    *,
    cost_power: float,
    stage: str,
) -> Plan:
    """Remove step after step, least damage first, until the cost is within the budget.

    Args:
        cost_power: the damage of a step is divided by the share of the cost that it saves, to this power: 0 looks at
            the damage alone, 1 at the damage for what it saves.

    Raises:
        StageError: the groups together cannot give up enough.
    """
    state, limit = _State(dict(shapes), budget.cost), budget.limit
    taken = dict.fromkeys(range(len(found)), 0)
    queue: list[tuple[float, int, int]] = []
    refused: list[tuple[float, int, int]] = []

    def push(index: int) -> None:
        candidate, done = found[index], taken[index]
        position = 0 if done == 0 else candidate.steps.index(done) + 1
        if position < len(candidate.steps):
            after = candidate.steps[position]
            saved = state.cost - state.cost_after(candidate.group, after - done)
            weight = max(saved / budget.before, _LEAST_SAVING) ** cost_power
            heapq.heappush(queue, (damage(candidate, done, after) / weight, index, after))

    for index in range(len(found)):
        push(index)
    while queue and state.cost > limit:
        _, index, after = heapq.heappop(queue)
        group = found[index].group
        then = state.cost_after(group, after - taken[index])
        if then < limit * (1 - _SLACK):
            refused.append((then, index, after))
            continue
        state.remove(group, after - taken[index])
        taken[index] = after
        push(index)
    _settle(state, found, taken, refused, limit)
    if state.cost > limit * (1 + _SLACK):
        raise _unreachable(found, shapes, budget, stage)
    removed = {found[i].group.name: found[i].order[:count] for i, count in taken.items() if count}
    return Plan(removed, state.cost)


def _settle(
    state: _State,
    found: Sequence[Candidate],
    taken: dict[int, int],
    refused: Sequence[tuple[float, int, int]],
    limit: float,
) -> None:
    """Take the smallest of the steps that were too large, if nothing else got within the budget."""
    if state.cost > limit * (1 + _SLACK) and refused:
        costs = [
            (state.cost_after(found[index].group, after - taken[index]), index, after)
            for _, index, after in refused
            if after > taken[index]
        ]
        _, index, after = max(costs)
        state.remove(found[index].group, after - taken[index])
        taken[index] = after


class _State:
    """The shapes left so far, and their cost, kept up to date layer by layer."""

    def __init__(self, shapes: dict[str, LayerShape], cost: Cost) -> None:
        self._shapes = shapes
        self._cost = cost
        self.cost = total(cost, shapes.values())

    def cost_after(self, group: Group, units: int) -> float:
        return self.cost - sum(self._cost(old) - self._cost(new) for old, new in self._changed(group, units))

    def remove(self, group: Group, units: int) -> None:
        self.cost = self.cost_after(group, units)
        for _, new in self._changed(group, units):
            self._shapes[new.name] = new

    def _changed(self, group: Group, units: int) -> list[tuple[LayerShape, LayerShape]]:
        pairs = [(self._shapes[name], cut) for name, cut in group.cuts.items() if name in self._shapes]
        return [(shape, cut.times(units).applied(shape)) for shape, cut in pairs]


def _unreachable(
    found: Sequence[Candidate], shapes: Mapping[str, LayerShape], budget: Budget, stage: str
) -> StageError:
    state = _State(dict(shapes), budget.cost)
    for candidate in found:
        state.remove(candidate.group, candidate.steps[-1])
    share = math.ceil(100 * state.cost / budget.before) / 100
    return StageError(
        f"stage {stage!r}: {budget.limit / budget.before:.0%} of the {budget.unit} cannot be reached: at least "
        f"{share:.0%} stay, with round_to, max_removed and the layers that are excluded or cannot be cut",
        fix=f"stage.{stage}.keep={min(share + 0.01, 0.99):g} or more, a smaller round_to, or fewer excludes",
    )
