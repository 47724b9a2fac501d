"""What may be compared, and what the sentences claim."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_rows import ORT, row, run_rows, timed

from compress.core.artifact import Format
from compress.core.measurement import Accuracy, LatencyRatio, Race, Sparsity
from compress.measure.comparable import comparable_latency, label, time_ratio, why_not_comparable
from compress.report.compare import feed_of, final_row, in_words


def words(rows):
    return dict(in_words(rows))


def test_latencies_of_different_runtimes_settings_or_emulation_are_not_compared():
    source, magnitude, ptq, onnx = run_rows()
    assert why_not_comparable(magnitude, source) is None
    assert why_not_comparable(onnx, ptq) == "other runtime"
    assert why_not_comparable(ptq, source) == "emulated"
    assert why_not_comparable(replace(magnitude, latency=timed(1, threads=4)), source) == "other setting"
    assert why_not_comparable(replace(magnitude, latency=None), source) == "not measured"
    assert label(ptq, "latency") == "emulated"
    assert label(onnx, "macs") is None


def test_a_row_is_held_against_the_stage_that_fed_it():
    rows = (*run_rows(), row("to_torchscript", feed="magnitude", format=Format.TORCHSCRIPT, runtime="torchscript 2"))
    assert feed_of(rows, rows[0]) is None
    assert feed_of(rows, rows[4]).stage == "magnitude"
    assert final_row(rows).stage == "to_torchscript"
    assert final_row(rows[:2]).stage == "magnitude"
    assert comparable_latency(rows, rows[4]) is None
    assert comparable_latency(rows, rows[1]).stage == "source"


def test_zeros_are_not_called_speed_even_when_the_clock_says_so():
    source, magnitude, *_ = run_rows()
    sentence = words((source, replace(magnitude, latency=timed(1.0))))["magnitude"]
    assert "50.0 % zeros, not speed: dense runtimes run the same arithmetic" in sentence
    assert "gzip is where they pay (1.7x smaller)" in sentence
    assert "faster" not in sentence
    useless = replace(magnitude, size_gzip_bytes=source.size_gzip_bytes)
    assert "gzip does not gain either" in words((source, useless))["magnitude"]


def test_the_exported_int8_file_is_compared_with_an_fp32_file_in_its_runtime_only():
    rows = run_rows()
    assert "3.3x smaller than the source" in words(rows)["to_onnx"]
    assert "speed not comparable: no earlier stage ran in onnxruntime 1.31.0" in words(rows)["to_onnx"]
    assert "emulated and says nothing about speed" in words(rows)["ptq_static"]
    baseline = row("to_onnx_fp32", feed="source", format=Format.ONNX, runtime=ORT, latency=timed(1.7))
    with_baseline = words((rows[0], baseline, *rows[1:]))["to_onnx"]
    assert "2.1x faster than to_onnx_fp32 in the same runtime" in with_baseline


@pytest.mark.parametrize(
    ("ms", "spread", "claim"),
    [
        (1.5, 1.02, "2.0x faster than source"),
        (6.0, 1.02, "worse: 2.0x slower than source"),
        (2.95, 1.02, "no speed-up over source"),
        (2.5, 1.5, "no speed-up over source"),  # its p90 lies beyond the other's median
    ],
)
def test_a_speed_claim_needs_a_clear_difference(ms, spread, claim):
    rows = (row("source"), row("fold", feed="source", latency=timed(ms, spread)))
    assert claim in words(rows)["fold"]


@pytest.mark.parametrize(
    ("ratio", "low", "high", "claim"),
    [
        (0.5, 0.48, 0.52, "2.0x faster than source"),
        (1.5, 1.4, 1.6, "worse: 1.5x slower than source"),
        (0.9, 0.7, 1.1, "no speed-up over source"),  # a round went the other way
        (0.99, 0.985, 0.995, "no speed-up over source"),  # nothing anyone would notice
    ],
)
def test_a_race_outweighs_medians_taken_one_after_the_other(ratio, low, high, claim):
    race = Race("source", LatencyRatio(ratio, low, high, 200))
    rows = (row("source"), row("fold", feed="source", latency=timed(9.0), race=race))
    assert claim in words(rows)["fold"]
    assert time_ratio(rows[1], rows[0]) == ratio


def test_two_that_raced_against_a_third_are_compared_over_it():
    slow, fast = (Race("source", LatencyRatio(ratio, ratio, ratio, 200)) for ratio in (0.8, 0.2))
    old, new = row("fold", feed="source", race=slow), row("prune", feed="fold", race=fast)
    assert time_ratio(new, old) == pytest.approx(0.25)
    assert time_ratio(new, row("other", latency=timed(6.0))) == pytest.approx(0.5)
    assert time_ratio(new, row("other", runtime=ORT)) is None


@pytest.mark.parametrize(
    ("accuracy", "claim"),
    [
        (Accuracy(0.928, 0.902, 0.947, 500), "top-1 unchanged"),
        (Accuracy(0.920, 0.893, 0.941, 500), "top-1 −0.8 points, inside the 95 % interval"),
        (Accuracy(0.700, 0.658, 0.738, 500), "worse: top-1 −22.8 points"),
        (Accuracy(0.990, 0.977, 0.996, 500), "better: top-1 +6.2 points"),
    ],
)
def test_accuracy_is_judged_by_its_interval(accuracy, claim):
    assert claim in words((row("source"), row("x", feed="source", accuracy=accuracy)))["x"]


def test_larger_files_and_fewer_macs_are_said():
    rows = (row("source"), row("x", feed="source", size_bytes=2_200_000, macs=20_000_000, sparsity=Sparsity(0, 9)))
    assert "2.0x larger than the source; 2.0x fewer MACs than source" in words(rows)["x"]


def test_gaps_leave_out_clauses_instead_of_failing():
    empty = row(
        "x", feed="source", size_bytes=None, latency=None, accuracy=None, fidelity=None, macs=None, sparsity=None
    )
    assert words((row("source"), empty)) == {"x": ""}
