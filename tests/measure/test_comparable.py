"""Caveats are typed: what a note says is for people, and decides nothing."""

from __future__ import annotations

from dataclasses import replace

from report_rows import row, timed

from compress.core.measurement import Caveat, CaveatKind
from compress.measure.comparable import label, time_ratio, why_not_comparable

OLD = row("old", latency=timed(4.0))


def with_caveat(kind, quantity="latency", **numbers):
    return row("new", caveats={quantity: Caveat(kind, "why")}, **numbers)


def test_the_word_of_a_doubtful_figure_is_its_kind():
    assert [label(with_caveat(kind), "latency") for kind in CaveatKind] == ["emulated", "estimate", "untrusted", None]
    assert label(with_caveat(CaveatKind.EMULATED), "accuracy") is None


def test_wording_is_no_caveat():
    worded = row("new", latency=timed(2.0), notes={"latency": "emulated: by whom?", "accuracy": "a remark"})
    assert (label(worded, "latency"), label(worded, "accuracy")) == (None, None)
    assert why_not_comparable(worded, OLD) is None
    assert time_ratio(worded, OLD) == 0.5


def test_an_emulated_time_is_compared_with_none():
    emulated = with_caveat(CaveatKind.EMULATED, latency=timed(2.0))
    assert why_not_comparable(emulated, OLD) == why_not_comparable(OLD, emulated) == "emulated"
    assert time_ratio(emulated, OLD) is None


def test_every_caveat_is_told_and_told_once():
    told = row("x", notes={"graph": "12 nodes"}, caveats={"macs": Caveat(CaveatKind.UNTRUSTED, "no shapes")}, macs=3)
    assert told.notes == {"graph": "12 nodes", "macs": "not to be trusted: no shapes"}
    assert replace(told, stage="y").notes == told.notes
    assert (told.why_absent("macs"), told.why_absent("latency")) == ("no shapes", "")
