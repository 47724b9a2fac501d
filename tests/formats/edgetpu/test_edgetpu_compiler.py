"""The compiler as a child process. The programs here only print what the real one printed, crash or hang."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.core.errors import ConfigError, StageError
from compress.formats.edgetpu.compiler import Compiler, Options, compile_model, find_compiler
from compress.formats.edgetpu.script import compile_script

OPTIONS = Options(runtime=13, segments=1, timeout_seconds=20)
SAYS = """echo 'Edge TPU Compiler version 16.0.384591198'
echo 'On-chip memory used for caching model parameters: 4.21MiB'
echo 'ADD                            42         Mapped to Edge TPU'
"""


@pytest.fixture
def program(tmp_path):
    def write(body):
        path = tmp_path / "bin" / "edgetpu_compiler"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\nfor model; do :; done\nname=${{model%.tflite}}\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
        return path

    return write


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "work" / "net.tflite"
    path.parent.mkdir()
    path.write_bytes(b"model")
    return path


def test_the_compiled_file_and_the_log(program, model):
    path = program(f'echo "$*" > arguments\n{SAYS}cp "$model" "${{name}}_edgetpu.tflite"')
    compiled = compile_model(Compiler(str(path)), model, OPTIONS)
    assert compiled.paths == (model.with_name("net_edgetpu.tflite"),)
    assert (compiled.log.mapped, compiled.log.on_chip_bytes) == (42, round(4.21 * (1 << 20)))
    assert (model.parent / "arguments").read_text() == "-s -m 13 -t 20 net.tflite\n"


def test_the_table_may_stand_in_the_log_file_only(program, model):
    row = "CONV_2D   7   Mapped to Edge TPU"
    path = program(f'echo "{row}" > "${{name}}_edgetpu.log"; cp "$model" "${{name}}_edgetpu.tflite"')
    assert compile_model(Compiler(str(path)), model, OPTIONS).log.mapped == 7


def test_segments_come_in_order(program, model):
    copies = "".join(f'cp "$model" "${{name}}_segment_{i}_of_3_edgetpu.tflite"\n' for i in range(3))
    path = program(f"{SAYS}{copies}")
    compiled = compile_model(Compiler(str(path)), model, Options(14, 3, 20))
    assert [path.name[12:13] for path in compiled.paths] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo 'Internal compiler error. Aborting!'; exit 1", r"failed \(exit 1\): Internal compiler error. Aborting!"),
        ("echo 'Model not quantized'", "wrote 0 of 1 file.*: Model not quantized"),
        ("kill -9 $$", r"failed \(exit -9\): it said nothing"),
    ],
)
def test_a_compiler_that_fails_is_quoted(program, model, body, message):
    with pytest.raises(StageError, match=message) as error:
        compile_model(Compiler(str(program(body))), model, OPTIONS)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the state of a process from /proc")
def test_a_compiler_that_hangs_is_ended_with_its_children(program, model, monkeypatch):
    monkeypatch.setattr("compress.formats.edgetpu.compiler._GRACE_SECONDS", 0.2)
    path = program("echo 'Started a compilation timeout timer'\nsleep 300 &\necho $! > child\nwait")
    started = time.monotonic()
    with pytest.raises(StageError, match="ran longer than 1 s: Started a compilation timeout timer"):
        compile_model(Compiler(str(path)), model, Options(14, 1, 1))
    assert time.monotonic() - started < 10
    child = int((model.parent / "child").read_text())
    time.sleep(0.2)
    state = Path(f"/proc/{child}/stat")  # a killed child that nobody waits for stays as a zombie
    assert not state.exists() or state.read_text().split()[2] == "Z"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the state of a process from /proc")
def test_the_compiler_ends_with_the_run(program, model, number):
    path = program("echo $$ > number\nexec sleep 60")
    script = (
        "import sys; from pathlib import Path\n"
        "from compress.formats.edgetpu.compiler import Compiler, Options, compile_model\n"
        "from compress.support.signals import orderly_exit\n"
        "with orderly_exit():\n    compile_model(Compiler(sys.argv[1]), Path(sys.argv[2]), Options(13, 1, 60))\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script, str(path), str(model)])
    started = model.parent / "number"
    for _ in range(500):
        if started.exists() and started.read_text():
            break
        time.sleep(0.02)
    run.send_signal(number)
    assert run.wait(timeout=20) == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number]
    state = Path(f"/proc/{int(started.read_text())}/stat")
    for _ in range(250):
        try:
            if state.read_text().split()[2] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):  # it may end between two looks
            return
        time.sleep(0.02)
    pytest.fail("the compiler is still running")


def test_a_compiler_named_by_a_relative_path_is_found_from_any_folder(program, monkeypatch):
    path = program("true")
    monkeypatch.chdir(path.parent)
    monkeypatch.setenv("EDGETPU_COMPILER", "./edgetpu_compiler")
    assert find_compiler() == Compiler(str(path))


def test_where_the_compiler_is_looked_for(program, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("EDGETPU_COMPILER", raising=False)
    assert find_compiler() is None
    path = program("true")
    monkeypatch.setenv("PATH", str(path.parent))
    assert find_compiler() == Compiler(str(path))
    monkeypatch.setenv("EDGETPU_COMPILER", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="is not a program"):
        find_compiler()
    monkeypatch.setenv("EDGETPU_COMPILER", "docker:coral/compiler:16")
    with pytest.raises(ConfigError, match="needs docker on the PATH"):
        find_compiler()


def test_the_image_gets_one_folder_and_no_network(tmp_path):
    command = Compiler(None, "coral/compiler:16").command(tmp_path, ["-s", "net.tflite"])
    assert command[:4] == ["docker", "run", "--rm", "--network=none"]
    assert command[-4:] == ["coral/compiler:16", "edgetpu_compiler", "-s", "net.tflite"]
    assert f"{tmp_path}:/work" in command


def test_the_script_checks_and_compiles(program, model):
    import hashlib

    path = program(f'{SAYS}cp "$model" "${{name}}_edgetpu.tflite"')
    script = model.with_name("compile.sh")
    script.write_text(compile_script(model.name, hashlib.sha256(b"model").hexdigest(), OPTIONS))
    environment = {**os.environ, "EDGETPU_COMPILER": str(path)}
    subprocess.run(["sh", str(script)], check=True, env=environment, capture_output=True)
    assert model.with_name("net_edgetpu.tflite").is_file()
    model.write_bytes(b"another")
    assert subprocess.run(["sh", str(script)], env=environment, capture_output=True).returncode != 0
