"""The tables as a person sees them."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from report_rows import row, run_report, run_rows
from rich.console import Console

from compress.core.measurement import Caveat, CaveatKind
from compress.report import terminal


def render(report, width, **options):
    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False, **options)
    terminal.print_run(console, report, Path("outputs/x"))
    return stream.getvalue()


def squeezed(line):
    return " ".join(line.split())


def lines_of(text):
    return [line.rstrip() for line in text.splitlines()]


def test_every_quantity_fits_100_columns():
    text = render(run_report(), 100)
    lines = lines_of(text)
    assert max(map(len, lines)) <= 100
    start = next(index for index, line in enumerate(lines) if line.startswith("stage "))
    assert squeezed(lines[start]) == "stage format size zeros MACs host latency top-1 % agree %"
    onnx = next(index for index, line in enumerate(lines) if line.startswith("to_onnx"))
    assert squeezed(lines[onnx]) == "to_onnx onnx int8 322.3 KiB 0.0 – 0.80 (0.82) 92.4 99.0"
    assert squeezed(lines[onnx + 1]) == "1.5 s onnxruntime 1.31.0 976.6 KiB 272.5 k 89.7–94.4 25.6 dB"
    assert "1.5 s reused" in text
    assert "emulated" in lines[next(i for i, line in enumerate(lines) if line.startswith("ptq_static")) + 1]
    assert "measured on this host (Test CPU, avx512_vnni), not on the device, batch 1, 1 thread" in text


def test_80_columns_lose_quantities_and_say_so_but_cut_nothing():
    text = render(run_report(), 80)
    assert max(map(len, lines_of(text))) <= 80
    assert "…" not in text
    assert "MACs and parameters need 100 columns" in text
    for stage in ("source", "magnitude", "ptq_static", "to_onnx"):
        assert any(line.startswith(f"{stage} ") for line in lines_of(text))


def test_changes_name_what_they_are_against_and_never_mix_runtimes():
    lines = lines_of(render(run_report(), 100))
    start = lines.index("Changes")
    changes = [squeezed(line) for line in lines[start + 4 : lines.index("", start)]]
    assert changes == [
        "magnitude source same −40.0 % same same",
        "ptq_static magnitude −71.8 % +66.7 % emulated same",
        "source −71.8 % same emulated same",
        "to_onnx ptq_static +6.5 % same other runtime −0.4",
        "source −70.0 % same other runtime −0.4",
    ]


def test_notes_give_each_reason_once():
    rows = run_rows()
    twice = (*rows, replace(rows[3], stage="again"))
    text = " ".join(render(run_report(twice), 100).split())
    assert "macs shape unknown (to_onnx, again)" in text
    assert text.count("shape unknown") == 1


def test_an_untrusted_accuracy_is_marked():
    marked = row("x", feed="source", caveats={"accuracy": Caveat(CaveatKind.UNTRUSTED, "no VNNI")})
    assert "untrusted" in render(run_report((row("source"), marked)), 100)


def test_brackets_in_names_are_text_not_markup():
    stream = io.StringIO()
    reports = [run_report(), run_report(target="jetson_nano", overrides=("target=jetson_nano",))]
    terminal.print_comparison(Console(file=stream, width=100), reports)
    text = stream.getvalue()
    assert "[fc]" in text
    assert "target=" not in text
    assert "defaults" in text
    assert "2 runs" in text


def test_a_comparison_of_different_runtimes_says_so_and_none_prints_nothing():
    stream = io.StringIO()
    console = Console(file=stream, width=80)
    terminal.print_comparison(console, [])
    assert stream.getvalue() == ""
    terminal.print_comparison(console, [run_report(), run_report(run_rows()[:2])])
    assert "latencies of different runtimes are not comparable" in stream.getvalue()


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_respected(monkeypatch, environment, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    text = render(run_report(), 100, force_terminal=True, color_system="standard")
    assert ("\x1b[33m" in text) is coloured


def test_piped_output_is_100_columns_of_plain_text_even_in_ascii():
    code = "from compress.report.terminal import console; c = console(); c.print('a – b'); print(c.width)"
    environment = {"PATH": "/usr/bin", "PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines() == ["a ? b", "100"]


def test_nothing_of_the_report_imports_torch():
    code = "import sys, compress.report.terminal, compress.report.progress; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
