"""The climb: in order, no further than needed, each rung from the best settings below it."""

from __future__ import annotations

from doubles import Log
from recipes import make_recipe
from torch import fx, nn

from compress.core.budget import Limits, Verdict
from compress.quantization.ladder import Made, Rung, Settings, climb, in_words
from compress.quantization.static import Recovery


def verdict(lost, sqnr=30.0):
    return Verdict(100, 90, lost, 0, 1 - lost / 100, sqnr)


def run(outcomes, drop, obstacles=(), sqnr=None):
    """Rungs `r0`, `r1`, ... that lose `outcomes[i]` of 100 images with 30, 31, ... dB; what each started from."""
    graphs = [fx.symbolic_trace(nn.Identity()) for _ in outcomes]
    seen = []

    def rung(position):
        def make(settings):
            seen.append(settings.recovery.smooth)
            return Made(graphs[position], Settings(settings.recipe, Recovery(smooth=position)), ("did it",))

        return Rung(f"r{position}", make, "no data" if position in obstacles else None)

    log = Log()
    judged = {id(graph): verdict(lost, 30.0 + n) for n, (graph, lost) in enumerate(zip(graphs, outcomes, strict=True))}
    start = Settings(make_recipe(), Recovery())
    rungs = [rung(position) for position in range(len(outcomes))]
    return (
        climb(rungs, start, lambda graph: judged[id(graph)], Limits(drop, sqnr), log, "auto"),
        seen,
        log.lines,
        graphs,
    )


def test_it_stops_at_the_first_rung_within_the_budget():
    result, seen, lines, graphs = run([3, 1, 0], drop=1)
    assert [record.name for record in result.records] == ["r0", "r1"]
    assert result.within_budget
    assert result.best.graph is graphs[1]
    assert seen == [None, 0]
    assert lines[0].startswith("auto: rung 1 r0: top-1 -3.0 points (95 % ")
    assert "100 images), agreement 97.0 %, SQNR 30.0 dB, 0.0 s; did it" in lines[0]


def test_it_climbs_on_while_the_logits_are_too_noisy():
    result, _, _, graphs = run([0, 0, 0, 0], drop=1, sqnr=31.5)
    assert [record.within_budget for record in result.records] == [False, False, True]
    assert result.best.graph is graphs[2]


def test_a_rung_that_hurt_is_not_built_upon():
    result, seen, _, graphs = run([3, 8, 2], drop=0)
    assert seen == [None, 0, 0]
    assert not result.within_budget
    assert result.best.graph is graphs[2]
    assert result.best_record.name == "r2"


def test_a_rung_that_cannot_be_tried_is_listed_with_the_reason():
    result, seen, lines, _ = run([5, 0], drop=1, obstacles=[0])
    assert seen == [None]
    assert lines[0] == "auto: rung 1 r0: not possible: no data"
    assert in_words(result.records[0]) == "not possible: no data"
    assert result.within_budget


def test_no_rung_at_all():
    result, *_ = run([5], drop=1, obstacles=[0])
    assert result.best is None
    assert not result.within_budget
