"""Several runs from one command, and one table to compare them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from compress.__main__ import main

sys.path.insert(0, str(Path(__file__).parent))
from command import checked_manifest, rows, run_folders


def test_every_combination_and_one_comparison(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    code = main(
        [
            "-m",
            "target=raspberry_pi_4,jetson_nano",
            "stage.magnitude.amount=0.3,0.5",
            "budget=off",  # the amounts as typed
            "~stage.to_onnx_fp32",
            "measure=quick",
            "measure.latency_seconds=0.1",
            "data.evaluation=64",
            "data.calibration=32",
            f"output={tmp_path}",
        ]
    )
    assert code == 0
    runs = run_folders(tmp_path)
    assert sorted(run.parent.name for run in runs) == ["jetson_nano"] * 2 + ["raspberry_pi_4"] * 2
    for run in runs:
        checked_manifest(run)
    zeros = {
        round(rows(run)["to_onnx"]["sparsity"]["zeros"] / rows(run)["to_onnx"]["sparsity"]["total"], 1) for run in runs
    }
    assert zeros == {0.3, 0.5}
    (page,) = tmp_path.glob("multirun/*/report.html")
    assert "4 runs compared" in page.read_text()
    assert all((run / "report.html").is_file() for run in runs)
    comparison = capsys.readouterr().out.rsplit("results in", 1)[1]
    for text in ("raspberry_pi_4", "jetson_nano", "amount=0.3", "amount=0.5"):
        assert text in comparison


def test_a_refused_combination_does_not_stop_the_others(tmp_path, capsys):
    code = main(
        [
            "-m",
            "target=jetson_nano,raspberry_pi_4",
            "precision=int8",
            "~stage.to_onnx_fp32",
            "measure.latency_seconds=0.1",
            f"output={tmp_path}",
        ]
    )
    assert code == 2
    assert "sm_53" in capsys.readouterr().err
    (run,) = run_folders(tmp_path)
    assert run.parent.name == "raspberry_pi_4"
    ranges = json.loads((run / "report.json").read_text())["ranges"]
    assert {row["kind"] for row in ranges} == {"weight", "activation"}
    (page,) = tmp_path.glob("multirun/*/report.html")
    for text in ("1 run compared", "1 failed", "sm_53"):
        assert text in page.read_text()
