"""The package as a library: what README's example does."""

from __future__ import annotations

import pytest

import compress
from compress.core.artifact import Format
from compress.core.errors import ConfigError

JOB = ("target=raspberry_pi_4", "precision=fp32", "~stage.magnitude", "~stage.to_onnx_fp32", "measure=quick")


def test_a_run_gives_its_report_and_prints_nothing(tmp_path, capsys):
    finished = compress.run([*JOB, f"output={tmp_path}"])
    assert capsys.readouterr().out == ""
    assert not finished.failures
    assert [row.stage for row in finished.report.measurements] == ["source", "fold_batchnorm", "to_onnx"]
    assert finished.report.measurements[-1].format is Format.ONNX
    assert all((finished.folder / file.path).is_file() for file in finished.report.files)


def test_a_wrong_request_is_an_exception():
    with pytest.raises(ConfigError, match="unknown target"):
        compress.run(["target=toaster"])
