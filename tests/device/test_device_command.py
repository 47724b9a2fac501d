"""`python -m compress.device`: numbers out of range and bundles that are none are one line and exit code 2."""

from __future__ import annotations

import pytest

from compress.device.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "nan"], "more than 0 and at most 86400"),
        (["--seconds", "-1"], "more than 0 and at most 86400"),
        (["--seconds", "1e400"], "more than 0 and at most 86400"),
        (["--threads", "0"], "write numbers from 1 to 65536"),
        (["--batch", "1,100000000000000000000"], "write numbers from 1 to 65536"),
        (["--threads", "9" * 5000], "invalid _numbers value"),
        (["--threads", "1,x"], "invalid _numbers value"),
    ],
)
def test_numbers_out_of_range(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert main(["bench", "local", "--bundle", str(tmp_path), *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: command line: ")
    assert message in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"[]", b'{"schema_version": NaN}', b"[" * 100_000, b"\xff", None])
@pytest.mark.parametrize("command", [["verify"], ["bench", "local"], ["deploy", "local"]])
def test_a_folder_that_is_no_bundle(tmp_path, capsys, monkeypatch, command, content):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    assert main([*command, "--bundle", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert str(tmp_path) in errors
    assert errors.count("\n") == 1
