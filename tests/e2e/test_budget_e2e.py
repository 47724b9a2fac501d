"""The real command under the accuracy budget: a ruined network is delivered, labelled, and ends with exit 1."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from compress.__main__ import main

sys.path.insert(0, str(Path(__file__).parent))
from command import checked_manifest, run_folders

JOB = (
    "target=raspberry_pi_4",
    "precision=fp32",
    "~stage.magnitude",
    "~stage.to_onnx_fp32",
    "measure.latency_seconds=0.1",
    "data.evaluation=32",
)
RUINED = (
    "+stage@stage.structured=structured",
    "stage.structured.before=fold_batchnorm",
    "stage.structured.keep=0.1",
)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def last(output):
    run = run_folders(output)[-1]
    checked_manifest(run)
    return run, json.loads((run / "report.json").read_text())["budget"]


def test_a_miss_is_delivered_labelled_and_ends_with_exit_1(output, capsys):
    assert main([*JOB, *RUINED, f"output={output}"]) == 1
    captured = capsys.readouterr()
    run, (outcome,) = last(output)
    assert outcome["met"] is False
    assert outcome["stage"] == "to_onnx"
    assert outcome["verdict"]["lost"] > 10
    assert outcome["verdict"]["samples"] == 128
    assert captured.err.count("\n") == 1
    assert "error: to_onnx misses the accuracy budget of 1 points: top-1 -" in captured.err
    assert "budget=off" in captured.err
    assert "MISSED" in captured.out
    assert "MISSED" in (run / "report.md").read_text()


def test_off_holds_nothing_and_says_so(output, capsys):
    assert main([*JOB, *RUINED, "budget=off", f"output={output}"]) == 0
    assert "budget=off: nothing was held to the source's accuracy" in capsys.readouterr().out
    assert last(output)[1][0]["met"] is None


def test_without_validation_images_it_cannot_be_judged_and_nothing_crashes(output, capsys):
    assert main([*JOB, "data.validation=0", f"output={output}"]) == 0
    assert "the validation split is empty" in " ".join(capsys.readouterr().out.split())
    (outcome,) = last(output)[1]
    assert (outcome["met"], outcome["verdict"]["labelled"]) == (None, False)


@pytest.mark.parametrize("typed", ["budget.drop=-1", "budget=on", "budget.dorp=1"])
def test_wrong_budgets_are_one_line(typed, output, capsys):
    assert main([*JOB, typed, f"output={output}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
