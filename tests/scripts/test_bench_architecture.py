"""What the bench of the code's structure counts, on a package made for it."""

from __future__ import annotations

import json
import sys

import pytest
from doubles import ROOT

SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))

import bench_architecture as bench  # noqa: E402
import golden_record  # noqa: E402


@pytest.fixture
def package(tmp_path):
    def write(name: str, text: str) -> None:
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("a/one.py", "from pack.b.two import x\n")
    write("b/two.py", "def f():\n    import pack.c\n")
    write("c.py", "from pack import a\n")
    write("d.py", "from pack.a.one import x\nimport json\n")
    return tmp_path / "pack", write


def test_cycles_are_found_through_any_import(package):
    folder, write = package
    assert bench.cycles(bench.imports(folder)) == [("a", "b", "c")]
    write("c.py", "import json\n")
    assert bench.cycles(bench.imports(folder)) == []


def test_format_branches_are_counted_outside_formats_but_for_the_live_module(package):
    folder, write = package
    asked = "if x is Format.ONNX: ...\nif x in (Format.TORCH, Format.TFLITE): ...\ny = {Format.EDGETPU: 1}\n"
    write("d.py", f"{asked}match x:\n    case Format.TENSORRT: ...\n")
    write("formats/onnx.py", asked)
    assert len(bench.format_branches(folder)) == 4
    write("d.py", "if x is Format.TORCH: ...\naccepts = frozenset({Format.ONNX})\nrun(Format.ONNX)\n")
    assert bench.format_branches(folder) == []


def test_no_format_is_branched_on_outside_formats():
    assert bench.format_branches(bench.PACKAGE) == []


@pytest.mark.parametrize(
    "text", ["What runs a format.", "How far it is.", "`what` it is", "For those who ask.", "Whether"]
)
def test_openings_that_name_nothing(text):
    assert bench.opens_badly(text)


@pytest.mark.parametrize("text", ["Run a pipeline.", "The file on the TPU.", "Bytes of an artifact.", "One runner."])
def test_openings_that_name_something(text):
    assert not bench.opens_badly(text)


def test_docstrings_of_modules_classes_and_functions_are_read(package):
    folder, write = package
    write(
        "d.py",
        '"""A module."""\nclass C:\n    """A class."""\n    def f(self):\n        """Run."""\n    def g(self): ...\n',
    )
    assert [text for _, text in bench.docstrings(folder)] == ["A module.", "A class.", "Run."]


def test_long_files_and_entries(package):
    folder, write = package
    write("d.py", "x = 1\n" * 401)
    write("a/one.py", "x = 1\n" * 400)
    assert [path.name for path in bench.long_files([folder])] == ["d.py"]
    assert bench.entries(folder) == ["a", "b", "c.py", "d.py"]


def test_a_delivered_copy_is_the_same_file(tmp_path):
    (tmp_path / "log").write_text("store/x/net.onnx\nrun/net.onnx\nstore/y/other.onnx\n")
    assert bench.count_opens(tmp_path / "log") == {"net.onnx": 2, "other.onnx": 1}


def test_bars_are_written_and_a_bar_that_falls_short_is_no_error(tmp_path, capsys):
    bench.main(["--static", "--json", str(tmp_path / "bars.json")])
    bars = json.loads((tmp_path / "bars.json").read_text())
    assert {"name", "value", "unit", "bar", "holds"} == set(bars[0])
    assert next(bar for bar in bars if "branches" in bar["name"])["holds"] is True


def test_a_record_has_no_times_versions_or_machine(tmp_path):
    row = {"stage": "a", "runtime": "torch 2.14.1+cu130", "seconds": 1.5, "latency": {"median_ms": 1}, "macs": 7}
    notes = {"accuracy": "not here (AMD EPYC, avx2)", "budget": "top-1 in 1.2 s"}
    host = {"cpu": "AMD EPYC", "isa": ["avx2"]}
    report = {"host": host, "created": "now", "files": [], "measurements": [{**row, "notes": notes}]}
    files = [{"path": "net.onnx", "sha256": "12"}, {"path": "report.html", "sha256": "34"}]
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "manifest.json").write_text(json.dumps({"created": "now", "files": files}))
    assert dict(golden_record.read_run(tmp_path)) == {
        "files/net.onnx": "12",
        "report.measurements[0].stage": "a",
        "report.measurements[0].runtime": "torch <version>",
        "report.measurements[0].macs": 7,
        "report.measurements[0].notes.accuracy": "not here (<host>)",
        "report.measurements[0].notes.budget": "top-1 in <time>",
        "manifest.files.net.onnx.sha256": "12",
    }


def test_differences_are_one_line_a_value():
    old, new = {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": None}
    assert golden_record.differences(old, new) == ["- b: 2", "+ b: 4", "- c: 3", "+ d: null"]
