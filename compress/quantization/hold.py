"""Post-training quantization that climbs where the accuracy budget of a run would be broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compress.core.budget import Verdict, in_points
from compress.quantization.ladder import Made, Rung, climb, in_words
from compress.quantization.rung_names import RungName
from compress.quantization.rungs import Bench, build_rungs

__all__ = ["Held", "hold"]


@dataclass(frozen=True)
class Held:
    """Result that is handed on.

    Attributes:
        made: what the climb ended with; the first try if nothing does better.
        notes: what was done about the budget.
    """

    made: Made
    notes: dict[str, str]


def hold(first: Made, verdict: Verdict, bench: Bench, before: Callable[[], Verdict]) -> Held:
    """Climb from what was made as the user asked, and breaks the budget.

    Args:
        first: made as asked for.
        verdict: on it.
        before: judges the float network that came in: what that has lost already no quantization gives back.
    """
    broken = f"{in_points(verdict)}: {bench.limits.shortfall(verdict)}"
    came_in = before()
    if not bench.limits.met_by(came_in):
        return _noted(first, f"MISSED by what came in ({in_points(came_in)}), so nothing was climbed", bench)
    bench.progress.log(f"{bench.description}: beyond the budget as asked for ({broken}); climbing")
    rungs = [Rung("as_asked", lambda _: first), *build_rungs(_names(bench), bench)]
    climbed = climb(rungs, first.settings, bench.judge, bench.limits, bench.progress, bench.description)
    assert climbed.best is not None
    notes = {f"rung {record.number}": f"{record.name}: {in_words(record)}" for record in climbed.records}
    if climbed.within_budget:
        return Held(climbed.best, notes)
    held = _noted(climbed.best, "MISSED: no rung is within it, the best one is kept", bench)
    return Held(held.made, {**notes, **held.notes})


def _names(bench: Bench) -> tuple[RungName, ...]:
    """Layers in float are the last resort; where the device has no float, weights are rounded adaptively, which takes
    minutes."""
    return ("equalize_bias", "mixed_precision" if bench.recipe.policy.unlisted is None else "rounding")


def _noted(made: Made, text: str, bench: Bench) -> Held:
    bench.progress.log(f"{bench.description}: budget {text}")
    return Held(made, {"budget": text})
