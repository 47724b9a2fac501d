"""The way to a device, with the real courier: on this machine (`local`), its home in a temporary folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bundle_factory import edit_manifest, make_bundle

from compress.core.errors import ConfigError, DeviceError, Unreachable
from compress.device import visit
from compress.device.courier_link import CourierLink
from compress.device.fleet import measure_all
from compress.device.transport import Channel, ConnectionLost, LocalTransport, SshTransport
from compress.device.visit import BenchOptions, check_device, deploy, measure_on
from compress.results.bundle import read_bundle

OPTIONS = BenchOptions(seconds=0.3, threads=(1,), any_device=True, patience_seconds=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / ".cache" / "edge-compress"


@pytest.fixture
def bundle(made):
    return read_bundle(made)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def silent(text: str) -> None:
    pass


def test_a_device_says_what_it_is(home):
    assert check_device(LocalTransport()).startswith(f"local: {os.uname().machine}, Python 3.")


def test_a_bundle_is_copied_measured_and_brought_back(bundle, home):
    said = []
    result = measure_on(LocalTransport(), bundle, OPTIONS, said.append)
    assert result.manifest_sha256 == bundle.digest
    (row,) = result.results
    assert row.latency is not None
    assert row.golden.identical
    assert said[0].startswith("copied 0.1 MiB")
    assert "what is there" in said[1]
    copied = home / "bundles" / bundle.digest
    assert contents(copied) == contents(bundle.folder)
    assert not list((home / "runs").iterdir())


def test_what_is_there_is_not_copied_again(bundle, home):
    deploy(LocalTransport(), bundle, silent)
    said = []
    deploy(LocalTransport(), bundle, said.append)
    assert not [text for text in said if text.startswith("copied")]


def test_a_file_damaged_on_the_device_is_sent_again(bundle, home):
    deploy(LocalTransport(), bundle, silent)
    copied = home / "bundles" / bundle.digest / "net.onnx"
    copied.write_bytes(b"damaged")
    deploy(LocalTransport(), bundle, silent)
    assert copied.read_bytes() == (bundle.folder / "net.onnx").read_bytes()


def test_a_part_of_a_file_is_continued(bundle, home):
    content = (bundle.folder / "net.onnx").read_bytes()
    part = home / "bundles" / bundle.digest / "net.onnx.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content[:100])
    with CourierLink(LocalTransport()) as link:
        assert link.have(bundle.digest, bundle.files)["net.onnx"] == 100
    deploy(LocalTransport(), bundle, silent)
    assert part.with_name("net.onnx").read_bytes() == content


def test_a_part_that_is_wrong_is_found_out(bundle, home):
    part = home / "bundles" / bundle.digest / "net.onnx.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 100)
    with pytest.raises(DeviceError, match=r"net\.onnx arrived damaged"):
        deploy(LocalTransport(), bundle, silent)
    deploy(LocalTransport(), bundle, silent)


class Breaking:
    """A local device whose connection breaks after some time, as often as told."""

    name = "breaking"

    def __init__(self, breaks: int, after_seconds: float) -> None:
        self.left, self.after = breaks, after_seconds

    def open(self) -> Channel:
        channel = LocalTransport().open()
        if self.left:
            self.left -= 1
            threading.Timer(self.after, channel._process.kill).start()
        return channel


@pytest.mark.parametrize("after", [0.15, 0.6, 1.2])
def test_a_lost_connection_loses_nothing(bundle, home, after):
    said = []
    result = measure_on(Breaking(2, after), bundle, OPTIONS, said.append)
    assert result.finished
    assert [row.stage for row in result.results] == ["net"]
    assert [text for text in said if "connection lost" in text]


def test_the_benchmark_outlives_the_connection(bundle, home):
    """It is started once, however often the host comes back."""
    options = BenchOptions(seconds=4.0, threads=(1,), any_device=True, patience_seconds=20)
    said = []
    measure_on(Breaking(1, 2.0), bundle, options, said.append)
    assert len([text for text in said if "median ms" in text]) == 1
    assert not [text for text in said if "starting it again" in text]


def test_a_device_that_never_answers_is_not_waited_for(bundle):
    class Gone:
        name = "gone"

        def open(self) -> Channel:
            raise Unreachable("gone cannot be reached")

    started = time.monotonic()
    with pytest.raises(Unreachable):
        measure_on(Gone(), bundle, OPTIONS, silent)
    assert time.monotonic() - started < 1


def test_a_device_that_stays_away_is_given_up(bundle, home):
    options = BenchOptions(seconds=0.3, patience_seconds=0.5)
    with pytest.raises(Unreachable, match=r"did not come back within 0\.5 s"):
        measure_on(Breaking(99, 0.0), bundle, options, silent)


def test_another_architecture_is_refused_by_the_device(made, tmp_path, home):
    other = shutil.copytree(made, tmp_path / "bundle")
    edit_manifest(other, lambda document: document["device"].update(architecture="riscv64"))
    with pytest.raises(DeviceError, match=r"is for raspberry_pi_4 \(riscv64\), this machine is"):
        measure_on(LocalTransport(), read_bundle(other), BenchOptions(seconds=0.3), silent)


def test_two_benchmarks_do_not_overlap(bundle, home):
    deploy(LocalTransport(), bundle, silent)
    fleet = measure_all({"a": LocalTransport("a"), "b": LocalTransport("b")}, bundle, OPTIONS, silent)
    assert [run.name for run in fleet.runs] == ["a", "b"]
    assert not fleet.failures
    assert all(run.valid for run in fleet.runs)


def test_one_failing_device_does_not_stop_the_others(bundle, home):
    devices = {"here": LocalTransport("here"), "nowhere": SshTransport("pi@127.0.0.1:1")}
    fleet = measure_all(devices, bundle, OPTIONS, silent)
    assert [run.name for run in fleet.runs] == ["here"]
    assert "Connection refused" in str(fleet.failures["nowhere"])


def test_a_benchmark_that_is_killed_is_started_again(bundle, home):
    killed = []

    def kill_once(text: str) -> None:
        if "median ms" in text and not killed:
            killed.append(kill_benchmark(bundle.digest))

    options = BenchOptions(seconds=3.0, threads=tuple(range(1, 9)), any_device=True)  # long enough to be met alive
    said = []
    result = measure_on(LocalTransport(), bundle, options, lambda text: (said.append(text), kill_once(text)))
    assert killed == [True]
    assert "the benchmark ended early; starting it again" in said
    assert result.finished


def kill_benchmark(digest: str) -> bool:
    """Kill the benchmark of this bundle and its child, by what they run."""
    found = False
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if digest.encode() in command and b"benchmark.py" in command:
            os.kill(int(process.name), signal.SIGKILL)
            found = True
    return found


def full_disk_courier(bundle, home, free: int) -> str:
    """What the courier answers where `free` bytes are left: the real one, with the system's answer replaced."""
    script = (
        "import runpy, shutil, collections\n"
        "usage = collections.namedtuple('usage', 'total used free')\n"
        f"shutil.disk_usage = lambda path: usage(10**9, 10**9 - {free}, {free})\n"
        "import sys; from compress.device.bundle_agent import COURIER\n"
        "runpy.run_path(str(COURIER), run_name='__main__')\n"
    )
    files = [{"path": file.path, "sha256": file.sha256, "size_bytes": file.size_bytes} for file in bundle.files]
    request = {"do": "have", "digest": bundle.digest, "files": files}
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(request) + "\n", capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout).get("error", "")


def test_a_device_without_space_says_how_much_is_missing(bundle, home):
    answer = full_disk_courier(bundle, home, free=1 << 20)
    assert answer.startswith("16.")
    assert "MiB are needed" in answer
    assert "1.0 MiB are free" in answer
    assert full_disk_courier(bundle, home, free=1 << 30) == ""


def test_no_module_of_the_folder_the_user_is_in_is_imported(bundle, home, tmp_path, monkeypatch):
    """`device.host=local` in an unpacked download: its numpy.py must not stand in for numpy."""
    (tmp_path / "download").mkdir()
    for name in ("numpy", "onnxruntime", "pip", "venv", "json", "ctypes"):
        (tmp_path / "download" / f"{name}.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()")
    monkeypatch.chdir(tmp_path / "download")
    measure_on(LocalTransport(), bundle, OPTIONS, silent)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", ".ssh", "a/b", "", "net.onnx\n", "agent/../x", "agent/x/y", "agent/.x"]
)
def test_the_courier_takes_plain_names_only(bundle, home, path):
    from compress.results.bundle import BundleFile

    with CourierLink(LocalTransport()) as link, pytest.raises(DeviceError, match="is not of the form"):
        link.put(bundle.digest, BundleFile(path, "0" * 64, 1), 0, b"x")


def test_the_courier_survives_nonsense(home):
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import runpy; from compress.device.bundle_agent import COURIER;"
            "runpy.run_path(str(COURIER), run_name='__main__')",
        ],
        input='nonsense\n{"do": "rm"}\n{"do": "hello"}\n',
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert "does not understand" in first["error"]
    assert "does not understand" in second["error"]
    assert third["ok"]["protocol"] == 1


@pytest.mark.slow
def test_a_missing_runtime_that_cannot_be_installed_says_what_to_do(bundle, home, tmp_path, monkeypatch):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "onnxruntime.py").write_text("raise ImportError('No module named onnxruntime')")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(
        DeviceError,
        match=r"pip cannot install the runtime here: .* fix: on the device: python3 -m venv .* -r .*requirements\.txt",
    ):
        deploy(LocalTransport(), bundle, silent)
    assert not list((home / "venvs").iterdir())


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "a b", "pi@", "pi@host;ls", "$(ls)", "pi@host:22x", ""])
def test_hosts_that_are_no_hosts_are_refused(host):
    with pytest.raises(ConfigError, match="is not a device"):
        SshTransport(host)


def test_a_lost_line_is_told_from_a_refusal(home):
    link = CourierLink(LocalTransport())
    link._channel._process.kill()
    link._channel._process.wait()
    with pytest.raises(ConnectionLost):
        link.hello()


def test_a_long_copy_says_now_and_then_how_far_it_is():
    said = []
    progress = visit._Progress(said.append)
    for second in range(0, 41, 5):
        progress.copying((second + 1) << 20, 41 << 20, float(second))
    assert said == [
        "copied 16.0 of 41.0 MiB, about 23 s left",
        "copied 31.0 of 41.0 MiB, about 10 s left",
    ]
