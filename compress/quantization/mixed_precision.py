"""Mixed precision: the fewest layers left in float for which the network meets a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from compress.core.artifact import Precision
from compress.core.roofline import Roofline, published
from compress.core.target import Target
from compress.quantization.sensitivity import LayerSensitivity

__all__ = ["Cost", "ExtraMilliseconds", "MixedChoice", "choose_float_layers", "extra_bytes"]

_LEAST_COST = 1e-12
"""A layer that costs nothing in float goes first, without dividing by zero."""

Cost: TypeAlias = Callable[[LayerSensitivity], float]
"""What a layer costs when it stays in float."""


def extra_bytes(row: LayerSensitivity) -> float:
    """Bytes by which the file grows: three quarters of the float32 weight."""
    return row.weight_bytes * 3 / 4


@dataclass(frozen=True)
class ExtraMilliseconds:
    """Estimated milliseconds by which one inference grows, from the target's peaks and bandwidth.

    The sum of the arithmetic's and the weights' part of a roofline; good for comparing layers, not for promising times.

    Attributes:
        floats, integers: limits of the device in FP32 and in INT8.
    """

    floats: Roofline
    integers: Roofline

    @classmethod
    def on(cls, target: Target) -> ExtraMilliseconds:
        """Build from the target's facts, which must name the FP32 and the INT8 peak."""
        floats, integers = (published(target, precision) for precision in (Precision.FP32, Precision.INT8))
        assert floats is not None
        assert integers is not None
        return cls(floats, integers)

    def __call__(self, row: LayerSensitivity) -> float:
        arithmetic = self.floats.computing(2 * row.macs) - self.integers.computing(2 * row.macs)
        return 1000 * (arithmetic + self.floats.moving(extra_bytes(row)))


@dataclass(frozen=True)
class MixedChoice:
    """Layers to leave in float.

    Attributes:
        keep_float: their names; for `Recipe.keep_float`.
        loss: what `evaluate` gave for them.
        meets_budget: whether that is within the allowed loss; if not, this is the best set that was tried.
        extra_bytes: by how much the weights grow against all of them in 8 bits.
        evaluations: number of sets tried.
    """

    keep_float: frozenset[str]
    loss: float
    meets_budget: bool
    extra_bytes: int
    evaluations: int


def choose_float_layers(
    sensitivities: Sequence[LayerSensitivity],
    evaluate: Callable[[frozenset[str]], float],
    *,
    allowed_loss: float,
    cost: Cost = extra_bytes,
) -> MixedChoice:
    """Greedy by noise removed per cost, then without any layer that turned out unnecessary.

    Layers are ranked once. The shortest prefix of the ranking that meets the budget is found by doubling and bisection,
    in about `2 log2(n)` evaluations; then each of its layers is put back in integers, least noise first, where
    the budget allows.

    Args:
        sensitivities: of the layers that may stay in float.
        evaluate: the loss with these layers in float and all others quantized; smaller is better.
        allowed_loss: in the unit of `evaluate`.
        cost: what a layer in float costs, in any unit.
    """
    ranked = sorted(sensitivities, key=lambda row: (-_noise(row) / max(cost(row), _LEAST_COST), row.name))
    trials = _Trials(evaluate, allowed_loss)
    count = _shortest_prefix(ranked, trials)
    chosen = trials.best() if count is None else _without_unnecessary(ranked[:count], trials)
    growth = round(sum(extra_bytes(row) for row in ranked if row.name in chosen))
    return MixedChoice(chosen, trials.loss(chosen), trials.meets(chosen), growth, trials.count)


class _Trials:
    """Sets tried so far; each is evaluated once."""

    def __init__(self, evaluate: Callable[[frozenset[str]], float], allowed_loss: float) -> None:
        self._evaluate = evaluate
        self._allowed = allowed_loss
        self._losses: dict[frozenset[str], float] = {}

    def loss(self, names: frozenset[str]) -> float:
        if names not in self._losses:
            self._losses[names] = self._evaluate(names)
        return self._losses[names]

    def meets(self, names: frozenset[str]) -> bool:
        return self.loss(names) <= self._allowed

    def best(self) -> frozenset[str]:
        """The set of least loss, the smallest of those."""
        return min(self._losses, key=lambda names: (self._losses[names], len(names)))

    @property
    def count(self) -> int:
        return len(self._losses)


def _noise(row: LayerSensitivity) -> float:
    """Share of noise in the output: the noises of layers add up, their decibels do not."""
    return math.pow(10, -row.sqnr_db / 10)


def _shortest_prefix(ranked: Sequence[LayerSensitivity], trials: _Trials) -> int | None:
    """Number of layers from the front that meet the budget; None if even all of them do not."""
    names = [row.name for row in ranked]
    enough, short = 0, -1
    while not trials.meets(frozenset(names[:enough])):
        if enough == len(names):
            return None
        short, enough = enough, min(max(1, 2 * enough), len(names))
    while enough - short > 1:
        middle = (enough + short) // 2
        if trials.meets(frozenset(names[:middle])):
            enough = middle
        else:
            short = middle
    return enough


def _without_unnecessary(rows: Sequence[LayerSensitivity], trials: _Trials) -> frozenset[str]:
    kept = frozenset(row.name for row in rows)
    for row in sorted(rows, key=lambda row: (_noise(row), row.name)):
        if len(kept) > 1 and trials.meets(kept - {row.name}):
            kept -= {row.name}
    return kept
