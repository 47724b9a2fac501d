"""What the agent on the board says about a request before it measures anything."""

import argparse
import contextlib
import json
import os
import shutil

import pytest
from bundle_factory import QUICK, make_bundle, run_agent

from compress.device.agent.benchmark import main
from compress.device.agent.machine import boot
from compress.device.agent.program import run_program
from compress.device.agent.saving import resumable, settings
from compress.device.agent.values import Problem


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threads", "0"], "argument --threads: '0' is not whole numbers from 1 to 65536, such as 1,4"),
        (["--threads", "1,x"], "argument --threads: '1,x' is not whole numbers"),
        (["--threads", "99999999"], "argument --threads: '99999999' is not whole numbers"),
        (["--batch", ""], "argument --batch: '' is not whole numbers"),
        (["--seconds", "nan"], "argument --seconds: 'nan' is not a number of seconds above 0, such as 30"),
        (["--seconds", "inf"], "argument --seconds: 'inf' is not a number"),
        (["--seconds", "0"], "argument --seconds: '0' is not a number"),
        (["--seconds", "soon"], "argument --seconds: 'soon' is not a number"),
        (["--second", "1", "--speed"], "unrecognized arguments: --speed"),
        (["--models", "nt"], "no model 'nt' in this bundle; it has net"),
    ],
)
def test_a_wrong_request_is_one_line_before_anything_is_measured(made, capsys, arguments, words):
    assert main(["--bundle", str(made), "--any-device", *arguments]) == 2
    out, error = capsys.readouterr()
    assert words in error
    assert (error.count("\n"), out) == (1, "")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "this device has too little memory"),
        (OSError(28, "No space left on device", "x.json"), 1, "x.json: No space left on device"),
        (BrokenPipeError(32, "Broken pipe"), 1, "[Errno 32] Broken pipe"),
        (Problem("größe", "x", 2), 2, "größe | fix: x"),
    ],
)
def test_whatever_ends_a_program_is_one_line(capsys, error, code, words):
    def work() -> int:
        raise error

    assert run_program(work) == code
    assert capsys.readouterr().err == f"error: {words}\n"


def test_resume_without_a_file_is_refused(made, capsys):
    assert main(["--bundle", str(made), "--any-device", "--resume"]) == 2
    assert "--resume keeps figures of the file that --json names, and none is named" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["none/result.json", "file/result.json", ""])
def test_a_result_that_cannot_be_written_stops_everything_before_it_is_measured(made, capsys, tmp_path, where):
    (tmp_path / "file").write_text("")
    assert main(["--bundle", str(made), "--any-device", "--json", str(tmp_path / where)]) == 2
    out, error = capsys.readouterr()
    assert "cannot be written: " in error
    assert "name a file in a folder of yours" in error
    assert (error.count("\n"), out) == (1, "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_told_before_anything_is_measured(made, capsys, tmp_path):
    tmp_path.chmod(0o555)
    assert main(["--bundle", str(made), "--any-device", "--json", str(tmp_path / "result.json")]) == 2
    assert "cannot be written: Permission denied" in capsys.readouterr().err


def test_resuming_what_is_done_says_so(bundle):
    first = run_agent(bundle, *QUICK, "--resume")
    again = run_agent(bundle, *QUICK, "--resume")
    assert (first.code, again.code, again.out, again.result) == (0, 2, "", first.result)
    assert "nothing is left to measure: " in again.err
    assert "leave --resume out to measure again" in again.err
    more = run_agent(bundle, *QUICK[:-1], "1,2", "--resume")
    assert (more.code, [row["threads"] for row in more.result["results"]]) == (0, [1, 2])


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"nonsense", b"[" * 100_000, b'{"results": [{"problem": null, "stage": [], "threads": {}}]}', b"\xff"],
)
def test_what_is_no_result_is_measured_again(made, tmp_path, content):
    import hashlib

    digest = hashlib.sha256((made / "manifest.json").read_bytes()).hexdigest()
    options = argparse.Namespace(resume=True, json=str(tmp_path / "r.json"), batch=[1], seconds=1.0)
    facts = {"manifest_sha256": digest, "boot": boot(), "settings": settings(options), "finished": True}
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        content = json.dumps({**json.loads(content), **facts}).encode()
    (tmp_path / "r.json").write_bytes(content)
    assert resumable(options, digest) == ([], False)


def test_a_run_that_died_at_its_very_end_is_finished(bundle):
    """All figures are there and nobody said so: the host waits for that word."""
    first = run_agent(bundle, *QUICK, "--resume")
    path = bundle.parent / "result.json"
    path.write_text(json.dumps({**first.result, "finished": False}))
    again = run_agent(bundle, *QUICK, "--resume")
    assert (again.code, again.result["finished"], again.result["results"]) == (0, True, first.result["results"])


def test_without_numpy_there_is_one_line_and_no_traceback(bundle, tmp_path):
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "numpy.py").write_text("raise ImportError('No module named numpy\\nand a long story')")
    done = run_agent(bundle, *QUICK, environment={**os.environ, "PYTHONPATH": str(tmp_path / "hide")})
    assert (done.code, done.out, done.result) == (2, "", None)
    assert done.err == (
        "error: numpy cannot be imported: No module named numpy | fix: pip install -r requirements.txt; "
        "README.md has the lines to type\n"
    )
