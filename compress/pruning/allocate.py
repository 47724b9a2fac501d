"""Allocation of a budget: how many units each group gives up so that the network meets it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from compress.core.errors import StageError
from compress.pruning.budget import Budget
from compress.pruning.cost import total
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
    prunable = []
    for group in groups:
        scores = importance[group.name].double()
        order = torch.argsort(scores, stable=True)
        steps = _steps(group, multiple, max_removed)
        if steps:
            prunable.append(Candidate(group, tuple(order.tolist()), tuple(scores[order].tolist()), steps))
    return prunable


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
    allocation = _Allocation(found, shapes, budget, damage, cost_power)
    allocation.run()
    if allocation.cost > budget.limit * (1 + _SLACK):
        raise _unreachable(found, shapes, budget, stage)
    removed = {c.group.name: c.order[:count] for c, count in zip(found, allocation.taken, strict=True) if count}
    return Plan(removed, allocation.cost)


class _Allocation:
    """The layers as they are so far, and how many units each group gave up."""

    def __init__(
        self,
        found: Sequence[Candidate],
        shapes: Mapping[str, LayerShape],
        budget: Budget,
        damage: Damage,
        cost_power: float,
    ) -> None:
        self.taken = [0] * len(found)
        self.cost = budget.before
        self._found = found
        self._shapes = dict(shapes)
        self._budget = budget
        self._damage = damage
        self._cost_power = cost_power

    def run(self) -> None:
        """Take steps until the budget is met or none is left; one that is too large only where nothing else helps."""
        limit = self._budget.limit
        queue = [(self._price(index), index) for index in range(len(self._found))]
        heapq.heapify(queue)
        too_large: list[int] = []
        while queue and self.cost > limit:
            price, index = heapq.heappop(queue)
            now = self._price(index)
            if now > price:  # what it saves has shrunk since, as its neighbours did
                heapq.heappush(queue, (now, index))
            elif self._cost_after(index) < limit * (1 - _SLACK):
                too_large.append(index)
            else:
                self._take(index)
                if self._next(index) is not None:
                    heapq.heappush(queue, (self._price(index), index))
        if self.cost > limit * (1 + _SLACK) and too_large:
            self._take(max(too_large, key=self._cost_after))

    def _next(self, index: int) -> int | None:
        """Units that the group will have given up after its next step."""
        return next((step for step in self._found[index].steps if step > self.taken[index]), None)

    def _price(self, index: int) -> float:
        after = self._next(index)
        assert after is not None
        saved = max((self.cost - self._cost_after(index)) / self._budget.before, _LEAST_SAVING)
        worth: float = saved**self._cost_power
        return self._damage(self._found[index], self.taken[index], after) / worth

    def _cost_after(self, index: int) -> float:
        """Cost of the network after the group's next step."""
        cost = self._budget.cost
        return self.cost - sum(cost(old) - cost(new) for old, new in self._changed(index))

    def _take(self, index: int) -> None:
        after = self._next(index)
        assert after is not None
        self.cost = self._cost_after(index)
        self._shapes.update({new.name: new for _, new in self._changed(index)})
        self.taken[index] = after

    def _changed(self, index: int) -> list[tuple[LayerShape, LayerShape]]:
        """Shapes that the next step changes, before and after it."""
        units = (self._next(index) or 0) - self.taken[index]
        cuts = self._found[index].group.cuts
        pairs = [(self._shapes[name], cut) for name, cut in cuts.items() if name in self._shapes]
        return [(shape, cut.times(units).applied(shape)) for shape, cut in pairs]


def _unreachable(
    found: Sequence[Candidate], shapes: Mapping[str, LayerShape], budget: Budget, stage: str
) -> StageError:
    least = dict(shapes)
    for candidate in found:
        for name, cut in candidate.group.cuts.items():
            if name in least:
                least[name] = cut.times(candidate.steps[-1]).applied(least[name])
    share = math.ceil(100 * total(budget.cost, least.values()) / budget.before) / 100
    return StageError(
        f"stage {stage!r}: {budget.limit / budget.before:.0%} of the {budget.unit} cannot be reached: at least "
        f"{share:.0%} stay, with round_to, max_removed and the layers that are excluded or cannot be cut",
        fix=f"stage.{stage}.keep={min(share + 0.01, 0.99):g} or more, a smaller round_to, or fewer excludes",
    )
