"""-q leaves one line for each run, -v says how the stages are wired and what is reused; neither changes the result."""

from __future__ import annotations

import sys
from pathlib import Path

from compress.__main__ import main

sys.path.insert(0, str(Path(__file__).parent))
from command import checked_manifest, run_folders

JOB = ("target=raspberry_pi_4", "~stage.to_onnx_fp32", "~stage.magnitude")


def test_quiet_multirun_then_verbose_run(tmp_path, capsys):
    short = [*JOB, "measure.latency_seconds=0.1", f"output={tmp_path}"]
    assert main([*short, "-q", "-m", "precision=fp32,none"]) == 2
    (folder,) = run_folders(tmp_path)
    captured = capsys.readouterr()
    assert captured.err.startswith("error: unknown precision 'none'")
    (line,) = captured.out.splitlines()
    assert line.startswith("raspberry_pi_4: to_onnx: ")
    assert line.endswith(f": {folder}")
    checked_manifest(folder)

    assert main([*short, "-v", "precision=fp32", "stage.to_onnx.parity_samples=8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "fold_batchnorm (1 of 2): takes source, makes fp32 torch" in lines
    assert any(line.startswith(f"fold_batchnorm (1 of 2): found in {tmp_path}") for line in lines)
    assert any(line.startswith("to_onnx (2 of 2): peak memory ") for line in lines)
    assert any(line.startswith("evaluate to_onnx: ") for line in lines)
