"""The doctor says what a run would say, starts nothing, and its exit code is whether the default job works."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata

import pytest

from compress.__main__ import main as compress_main
from compress.doctor import packages
from compress.doctor.__main__ import main
from compress.doctor.check import Check, Level
from compress.doctor.machine import examine_machine
from compress.doctor.recipes import examine_stages, examine_targets
from compress.doctor.view import draw
from compress.measure.host import describe_host
from compress.stages.export import to_tflite
from compress.support.resources import describe_choices, targets_folder


def doctor(*arguments, **environment):
    command = [sys.executable, "-m", "compress.doctor", *arguments]
    environment = {**os.environ, "COLUMNS": "100", **environment}
    return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=120)


def by_name(checks):
    return {check.name: check for check in checks}


def test_every_target_and_stage_is_judged():
    targets, stages = by_name(examine_targets(None)), by_name(examine_stages(None))
    assert set(targets) == set(describe_choices(targets_folder()))
    assert targets["jetson_nano"].needed
    assert targets["jetson_nano"].level is targets["raspberry_pi_4"].level is Level.OK
    assert targets["jetson_nano"].text.startswith("NVIDIA Jetson Nano")
    assert stages["magnitude"].text == "every target"
    assert stages["semi_structured"].text == "jetson_orin_nano, jetson_orin_nano_jp6"
    assert "raspberry_pi_4" not in stages["fp16"].text


def test_a_missing_converter_is_told_as_a_run_tells_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(to_tflite, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    targets = by_name(examine_targets(None))
    assert {name for name, check in targets.items() if check.level is Level.NO} == {"coral"}
    coral = targets["coral"]
    assert not coral.fatal
    assert compress_main(["target=coral"]) == 2
    assert capsys.readouterr().err == f"error: {coral.text} | fix: {coral.fix}\n"
    assert by_name(examine_stages(None))["to_tflite"].fix == coral.fix == "pip install 'edge-compress[tflite]'"
    assert main(["--json"]) == 0  # the default job needs no TFLite


def test_what_is_left_to_the_device_is_said(monkeypatch):
    monkeypatch.setattr("compress.formats.tensorrt.runtime.unavailable", lambda: "no NVIDIA GPU answers here")
    monkeypatch.delenv("EDGETPU_COMPILER", raising=False)
    monkeypatch.setattr("compress.formats.edgetpu.compiler.find_program", lambda program: None)
    stages = by_name(examine_stages(None))
    assert stages["to_tensorrt"].text.endswith("; no NVIDIA GPU answers here, so the tensorrt file is made elsewhere")
    assert "no edgetpu_compiler on the PATH" in stages["to_edgetpu"].text


def test_a_wrong_compiler_is_the_finding_of_target_stage_and_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGETPU_COMPILER", "/not/there")
    found = [*examine_machine(describe_host(), tmp_path), *examine_stages(None)]
    wrong = [check for check in found if check.level is Level.NO]
    assert [check.name for check in wrong] == ["edgetpu_compiler", "to_edgetpu"]
    assert {check.text for check in wrong} == {"EDGETPU_COMPILER=/not/there is not a program"}


@pytest.mark.parametrize(
    ("architecture", "isa", "level"),
    [
        ("x86_64", ("avx2",), Level.NOTE),
        ("x86_64", ("avx512", "avx2"), Level.NOTE),
        ("x86_64", ("avx_vnni", "avx2"), Level.OK),
        ("aarch64", ("neon",), Level.OK),
        ("riscv64", (), Level.NOTE),
    ],
)
def test_int8_is_trusted_where_its_products_do_not_saturate(architecture, isa, level, tmp_path):
    host = replace(describe_host(), architecture=architecture, isa=isa)
    check = by_name(examine_machine(host, tmp_path))["int8"]
    assert check.level is level
    assert ("can be trusted" in check.text) == (level is Level.OK)


def test_a_place_that_cannot_be_written_is_fatal(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--output", str(tmp_path / "file" / "out")]) == 1
    out = capsys.readouterr().out
    assert "file cannot be written | fix: output=<a folder of yours>" in " ".join(out.split())
    assert out.splitlines()[-1].endswith(": disk")


def declare(monkeypatch, lines, versions, extras=()):
    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    class Fields:
        def get_all(self, name):
            return list(extras)

    monkeypatch.setattr(packages.metadata, "requires", lambda name: lines)
    monkeypatch.setattr(packages.metadata, "metadata", lambda name: Fields())
    monkeypatch.setattr(packages.metadata, "version", version)


def test_packages_are_held_against_the_declared_requirements(monkeypatch, capsys):
    lines = ["torch<2.15,>=2.14", "numpy>=1.26", "onnx>=1.23", "tomli; python_version < '3.0'"]
    lines += ["fast; extra == 'speed'", "slow>=2; extra == 'speed'", "old; python_version < '3' and extra == 'past'"]
    versions = {"torch": "2.13.0", "numpy": "2.0.0", "slow": "1.0"}
    declare(monkeypatch, lines, versions, ["speed", "past", "dev", "empty"])
    found = by_name(packages.examine_packages())
    assert set(found) == {"torch", "numpy", "onnx", "[speed]", "[past]"}
    assert found["numpy"].level is Level.OK
    assert found["torch"].text.startswith("2.13.0 is installed, <2.15,>=2.14 is needed")
    assert found["onnx"].fix == "pip install 'onnx>=1.23'"
    assert (found["[speed]"].level, found["[speed]"].fix) == (Level.NOTE, "pip install 'edge-compress[speed]'")
    assert "slow>=2" in found["[speed]"].text
    assert "not to be had for Python" in found["[past]"].text
    assert main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith(": torch, onnx")


def test_a_checkout_that_was_never_installed_is_examined_too(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packages.metadata, "requires", requires)
    found = by_name(packages.examine_packages())
    assert found["torch"].level is Level.OK
    assert found["edge-compress"].fix == "pip install -e ."


def test_the_command_as_json_imports_nothing_heavy():
    done = doctor("--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["works"] is True
    assert {check["group"] for check in report["checks"]} == {"machine", "packages", "targets", "stages"}
    assert all(set(check) == {"group", "name", "level", "text", "fix", "needed"} for check in report["checks"])
    script = "import sys; from compress.doctor.__main__ import main; main(['--json']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    modules = loaded.splitlines()[-1].split()
    assert not {"torch", "onnx", "onnxruntime", "torchao", "litert_torch", "tensorflow"} & set(modules)


def test_a_pipe_is_plain_and_a_poor_locale_is_ascii():
    done = doctor(PYTHONIOENCODING="ascii", FORCE_COLOR="", PYTHONUTF8="0")
    assert done.returncode == 0
    assert b"\033" not in done.stdout
    text = done.stdout.decode("ascii")
    assert "  ok jetson_nano" in text
    assert text.rstrip().endswith("The default job works here: python -m compress target=jetson_nano")
    assert max(map(len, text.splitlines())) <= 100


def test_signs_and_colours_follow_the_stream_and_the_environment(monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    checks = [Check("machine", "gpu", Level.NOTE, "none"), Check("machine", "disk", Level.NO, "full", "make room")]
    terminal = Terminal(io.BytesIO(), encoding="utf-8")
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\033[31m✗\033[0m disk  full | fix: make room" in draw(checks, terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    assert draw(checks, terminal).splitlines()[1:] == ["Machine", "  – gpu   none", "  ✗ disk  full | fix: make room"]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\033" not in draw(checks, terminal)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\033[33m--\033[0m gpu" in draw(checks, io.TextIOWrapper(io.BytesIO(), encoding="ascii"))


def test_wrong_requests_are_one_line(capsys, tmp_path):
    assert main(["--jso"]) == 2
    assert capsys.readouterr().err.startswith("error: command line: unrecognized arguments: --jso | fix: ")
    assert main(["--config-dir", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.endswith("is not a folder\n")


def test_a_target_of_ones_own_is_examined(tmp_path):
    for folder in ("target", "targets"):
        (tmp_path / folder).mkdir()
    facts = (targets_folder() / "raspberry_pi_4.yaml").read_text()
    (tmp_path / "targets" / "mine.yaml").write_text(facts.replace("name: raspberry_pi_4", "name: mine"))
    (tmp_path / "target" / "mine.yaml").write_text(
        "# @package _global_\n# mine\ndefaults:\n  - /stage@stage.cut: semi_structured\n  - /precision: fp32\n"
        "  - _self_\ntarget:\n  name: mine\n"
    )
    mine = by_name(examine_targets(tmp_path))["mine"]
    assert mine.level is Level.NO
    assert mine.text.startswith("stage 'cut': Raspberry Pi 4 ")
