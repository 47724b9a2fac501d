"""`python -m compress.report` on run folders, on several, and on what is none."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as Xml
from dataclasses import replace

import pytest
from page_rows import large_report, write_run
from report_rows import run_report

from compress.report.__main__ import main
from compress.results.multirun import Failure, save_multirun


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "outputs" / "raspberry_pi_4" / "one", large_report(4), layers=4)


def error(capsys):
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    return captured


def test_a_run_is_rebuilt_and_its_manifest_knows(run, capsys):
    record = {"path": "report.html", "sha256": "0" * 64, "size_bytes": 1}
    shape = {"shape": [3, 8, 8], "channel_order": "rgb", "mean": [0, 0, 0], "std": [1, 1, 1]}
    manifest = {"schema_version": 1, "created": "", "producer": "", "target": "raspberry_pi_4", "layout": "NCHW"}
    text = json.dumps({**manifest, "input": shape, "classes": ["a"], "files": [record]})
    (run / "manifest.json").write_text(text)
    assert main([str(run)]) == 0
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    listed = {file["path"]: file for file in json.loads((run / "manifest.json").read_text())["files"]}
    for name in ("report.html", "report.md"):
        assert listed[name]["sha256"] == hashlib.sha256((run / name).read_bytes()).hexdigest()
    again = (run / "report.html").read_bytes()
    assert main([str(run / "report.json")]) == 0
    assert (run / "report.html").read_bytes() == again


def test_several_runs_are_compared_beside_the_caller(run, tmp_path, capsys, monkeypatch):
    other = write_run(tmp_path / "two", replace(large_report(4), target_title="The other"), layers=4)
    monkeypatch.chdir(tmp_path)
    assert main([str(run), str(other)]) == 0
    assert capsys.readouterr().out == "report: comparison.html\n"
    page = (tmp_path / "comparison.html").read_text()
    assert "2 runs compared" in page
    assert "The other" in page
    assert not (run / "report.html").exists()


def test_a_multirun_with_failures_and_a_run_that_is_gone(run, capsys):
    gone = run.parent / "gone"
    folder = save_multirun([run, gone], [Failure(("target=jetson_nano", "precision=int8"), "stage 'x': no | fix: y")])
    assert json.loads((folder / "multirun.json").read_text())["runs"] == ["raspberry_pi_4/one", "raspberry_pi_4/gone"]
    assert main([str(folder)]) == 0
    page = (folder / "report.html").read_text()
    for text in ("1 run compared", "2 failed", "stage &#39;x&#39;: no | fix: y", "the run folder is gone"):
        assert text in page
    assert "no \\| fix: y" in (folder / "report.md").read_text()


def test_two_multiruns_in_a_second_have_folders_of_their_own(run):
    assert save_multirun([run], []) != save_multirun([run], [])


def test_plots_become_files(run, tmp_path, capsys):
    assert main([str(run), "--output", str(tmp_path / "page.html"), "--plots", str(tmp_path / "plots")]) == 0
    assert not (run / "report.html").exists()
    files = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert {path.partition(".")[0] for path in files} >= {
        "size",
        "latency",
        "accuracy",
        "drift",
        "roofline",
        "int8-scan",
    }
    assert f"plots: {len(files)} files in" in capsys.readouterr().out
    for path in (tmp_path / "plots").glob("*.svg"):
        root = Xml.fromstring(path.read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert int(root.get("width")) > 200
        assert "prefers-color-scheme:dark" in path.read_text()
    for path in (tmp_path / "plots").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_report(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert error(capsys) == (
        f"error: cannot read {tmp_path / 'report.json'}: No such file or directory "
        "| fix: give a run folder, outputs/<target>/<time>, or outputs/multirun/<time>\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a report: it is not JSON: Expecting value"),
        (b"[1]", "it has no schema_version"),
        (run_report().to_json().replace(b'"schema_version": 2', b'"schema_version": 99'), "schema version 99"),
        (run_report().to_json()[:2000], "not a report"),
        (run_report().to_json().replace(b'"wall_seconds": 83.2', b'"wall_seconds": "soon"'), "wall_seconds"),
    ],
    ids=["empty", "list", "schema", "cut", "wrong-type"],
)
def test_a_report_that_is_none(tmp_path, capsys, content, message):
    (tmp_path / "report.json").write_bytes(content)
    assert main([str(tmp_path)]) == 2
    line = error(capsys)
    assert str(tmp_path / "report.json") in line
    assert message in line


@pytest.mark.parametrize(
    "content", ["{}", '{"created": "", "runs": ["../../etc"], "failures": []}'], ids=["empty", "climbs-out"]
)
def test_a_multirun_that_is_none(tmp_path, capsys, content):
    folder = tmp_path / "multirun" / "x"
    folder.mkdir(parents=True)
    (folder / "multirun.json").write_text(content)
    assert main([str(folder)]) == 2
    assert str(folder / "multirun.json") in error(capsys)


def test_a_multirun_of_which_nothing_is_left(run, capsys):
    folder = save_multirun([run], [])
    (run / "report.json").unlink()
    assert main([str(folder)]) == 2
    assert "no run is left of" in error(capsys)


def test_an_output_that_is_a_folder(run, tmp_path, capsys):
    assert main([str(run), "--output", str(tmp_path)]) == 2
    assert "is a folder | fix: --output" in error(capsys)


def test_the_module_runs_without_torch(run):
    script = (
        f"import sys; from compress.report.__main__ import main; main([{str(run)!r}]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert done.stderr == ""


MULTIRUN = """
import os, signal, sys
from pathlib import Path
import compress.pipeline.run
from compress.__main__ import main
from compress.results.report import Report

folders = [Path(path) for path in sys.argv[2:]]
def run_once(request, progress):
    if not folders:
        os.kill(os.getpid(), signal.SIGKILL)
    folder = folders.pop(0)
    return compress.pipeline.run.Finished(folder, Report.from_json((folder / "report.json").read_bytes()))
compress.pipeline.run.run_once = run_once
main(["-q", "-m", "target=raspberry_pi_4", "seed=1,2,3", f"output={sys.argv[1]}"])
"""


def test_a_killed_multirun_leaves_the_page_of_what_is_done(run, tmp_path):
    other = write_run(run.parent / "two", replace(large_report(4), target_title="The other"), layers=4)
    command = [sys.executable, "-c", MULTIRUN, str(tmp_path / "outputs"), str(run), str(other)]
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == -9
    (folder,) = (tmp_path / "outputs" / "multirun").iterdir()
    assert json.loads((folder / "multirun.json").read_text())["runs"] == ["raspberry_pi_4/one", "raspberry_pi_4/two"]
    assert sorted(path.name for path in folder.iterdir()) == ["multirun.json", "report.html", "report.md"]
    assert "2 runs compared" in (folder / "report.html").read_text()
    assert "2 runs" in (folder / "report.md").read_text()


def test_a_record_moves_with_the_folder_that_holds_all_its_runs(run, tmp_path):
    first = save_multirun([run], [])
    elsewhere = write_run(tmp_path / "more" / "raspberry_pi_4" / "two", large_report(4), layers=4)
    second = save_multirun([run, elsewhere], [], {"report.html": b"page"}, earlier=first)
    assert second.parent.parent == tmp_path
    assert not first.exists()
    assert save_multirun([run, elsewhere], [], {"report.html": b"new"}, earlier=second) == second
    assert (second / "report.html").read_bytes() == b"new"
