"""What a hostile or broken device can do to the line: small programs stand in for its courier."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
from bundle_factory import make_bundle

from compress.core.errors import DeviceError, Unreachable
from compress.device import courier_link, transport, visit
from compress.device.__main__ import main
from compress.device.courier_link import CourierLink
from compress.device.transport import Channel, ConnectionLost, SshTransport
from compress.device.visit import BenchOptions, check_device, measure_on
from compress.results.bundle import BundleFile, read_bundle

HELLO = {"ok": {"protocol": 1, "python": "3.11.2", "architecture": "aarch64", "free_bytes": 1 << 30}}


@dataclass(frozen=True)
class StandIn:
    """A device whose courier is the given program."""

    program: str
    name: str = "board"

    def command(self) -> list[str]:
        return [sys.executable, "-S", "-c", "import sys, time, json\n" + self.program]

    def open(self) -> Channel:
        return Channel(transport._spawn(self.command()))


def answering(**answers) -> str:
    """A courier that gives each request, by its name, the answer of that name: a JSON document."""
    return (
        f"answers = {answers!r}\n"
        "for line in iter(sys.stdin.buffer.readline, b''):\n"
        "    request = json.loads(line)\n"
        "    sys.stdin.buffer.read(request.get('size', 0))\n"
        "    print(json.dumps(answers[request['do']]), flush=True)\n"
    )


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(courier_link, "_ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(courier_link, "_SETUP_SECONDS", 1.0)
    monkeypatch.setattr(transport, "OPEN_SECONDS", 1.0)
    monkeypatch.setattr(visit, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(visit, "_POLL_SECONDS", 0.01)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return read_bundle(make_bundle(tmp_path_factory.mktemp("made")))


@pytest.mark.parametrize(
    "program", ["time.sleep(600)", "while True: sys.stdout.write('x'); sys.stdout.flush(); time.sleep(0.05)"]
)
def test_a_device_that_never_answers_ends_the_request(impatient, program):
    started = time.monotonic()
    with pytest.raises(Unreachable, match="no answer within 1 s"):
        check_device(StandIn(program))
    assert time.monotonic() - started < 20


def test_a_device_that_never_answers_ends_the_command(impatient, bundle):
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"board did not come back within 1\.5 s"):
        measure_on(StandIn("time.sleep(600)"), bundle, BenchOptions(patience_seconds=1.5), [].append)
    assert time.monotonic() - started < 30


def test_a_device_that_reads_nothing_ends_the_request(impatient, monkeypatch):
    monkeypatch.setattr(courier_link, "_SLOWEST_LINE", 1 << 30)
    file = BundleFile("net.onnx", "0" * 64, 1)
    with CourierLink(StandIn("time.sleep(600)")) as link, pytest.raises(ConnectionLost, match="no answer within"):
        link.put("0" * 64, file, 0, b"x" * (1 << 20))


def test_ssh_that_lets_us_in_and_says_nothing_is_unreachable(impatient, monkeypatch):
    monkeypatch.setattr(SshTransport, "_command", lambda self, remote: StandIn("time.sleep(600)").command())
    with pytest.raises(Unreachable, match="pi@board lets us in and says nothing: no answer within 1 s"):
        SshTransport("pi@board").open()
    with pytest.raises(Unreachable, match="no answer within 1 s"):
        SshTransport("pi@board")._send_courier()


def test_the_command_ends_with_one_line_and_code_1(impatient, monkeypatch, capsys):
    monkeypatch.setattr(SshTransport, "_command", lambda self, remote: StandIn("time.sleep(600)").command())
    assert main(["check", "pi@board"]) == 1
    assert capsys.readouterr().err.startswith("error: pi@board lets us in and says nothing")


def test_error_output_does_not_hold_up_the_answer(impatient):
    monkey = "sys.stderr.write('x' * (1 << 20) + '\\nlast words\\n'); sys.stderr.flush()\n"
    with CourierLink(StandIn(monkey + answering(hello=HELLO))) as link:
        assert link.hello()["python"] == "3.11.2"
    channel = StandIn(monkey).open()
    code, text = channel.complaint()
    assert code == 0
    assert text.endswith("last words\n")
    assert len(text) <= 1 << 16


def test_a_line_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(courier_link, "_ANSWER_SECONDS", 60.0)
    endless = "while True: sys.stdout.write('x' * (1 << 16))"
    with CourierLink(StandIn(endless)) as link, pytest.raises(DeviceError, match="line of more than 8 MiB"):
        link.hello()


def test_a_device_cannot_forge_lines(capsys, impatient, monkeypatch):
    answer = {"error": "no\nerror: forged\x1b[2J\u202e", "fix": "a\rb"}
    with CourierLink(StandIn(answering(hello=answer))) as link, pytest.raises(DeviceError) as caught:
        link.hello()
    assert str(caught.value) == r"board: no\nerror: forged\x1b[2J\u202e | fix: a\rb"
    greeting = {"ok": {**HELLO["ok"], "architecture": "arm\nerror: forged\x1b[2J", "free_bytes": 2**64 - 1}}
    assert "\n" not in check_device(StandIn(answering(hello=greeting)))
    assert "\x1b" not in check_device(StandIn(answering(hello=greeting)))


@pytest.mark.parametrize("free", ["1" + "0" * 400, "NaN", "[" * 100, '1, "free_bytes": 2'])
def test_an_answer_that_is_not_plain_json_is_one_line(free):
    hello = json.dumps({"ok": {**HELLO["ok"], "free_bytes": "HERE"}}).replace('"HERE"', free)
    with pytest.raises(DeviceError, match="answers with something else than the courier does") as caught:
        check_device(Answering(hello.encode() + b"\n"))
    assert "\n" not in str(caught.value)


class Answering:
    """A device that says one line, whatever it is asked."""

    name = "board"

    def __init__(self, line: bytes) -> None:
        self.line = line

    def open(self):
        return self

    def ask(self, request, seconds):
        return self.line

    def close(self):
        pass


@pytest.mark.parametrize("size", [-1, 10**9, "x", None])
def test_sizes_that_cannot_be_are_refused(size):
    files = [BundleFile("net.onnx", "0" * 64, 100)]
    courier = answering(have={"ok": {"sizes": {"net.onnx": size}}})
    with CourierLink(StandIn(courier)) as link, pytest.raises(DeviceError):
        link.have("0" * 64, files)


def running(text: str, state: str = "running") -> str:
    poll = {"ok": {"state": state, "text": text, "offset": 1}}
    setup = {"ok": {"python": "/usr/bin/python3\nerror: forged", "how": "\x1b[2J"}}
    answers = {"have": {"ok": {"sizes": {}}}, "put": {"ok": {}}, "setup": setup, "poll": poll}
    return answering(**answers, start={"ok": {"state": "started"}})


def test_endless_printing_is_cut_and_then_given_up(impatient, bundle, monkeypatch):
    monkeypatch.setattr(visit, "_SILENT_SECONDS", 0.5)
    said = []
    with pytest.raises(DeviceError, match="nothing happened for"):
        measure_on(StandIn(running("x" * 999 + "\n" + "\x1b[2J" * 400)), bundle, BenchOptions(), said.append)
    assert sum(map(len, said)) < 3 * visit._MOST_CHARACTERS
    assert said[-1] == "the device prints more than is shown here"
    assert all(text.isprintable() for text in said)


def test_a_line_that_breaks_for_ever_is_given_up(impatient, bundle, monkeypatch):
    """Each visit gets something done, so patience alone would never end."""
    monkeypatch.setattr(visit, "_MOST_VISITS", 3)
    said = []
    courier = running("").replace("print(", "sys.exit() if request['do'] == 'poll' else print(")
    with pytest.raises(Unreachable, match="board: the connection broke 3 times"):
        measure_on(StandIn(courier), bundle, BenchOptions(), said.append)
    assert len([text for text in said if "connection lost" in text]) == 3


def test_a_device_that_is_always_busy_is_given_up(impatient, bundle, monkeypatch):
    monkeypatch.setattr(visit, "_SILENT_SECONDS", 0.3)
    courier = running("").replace("'started'", "'busy'")
    with pytest.raises(DeviceError, match="nothing happened for"):
        measure_on(StandIn(courier), bundle, BenchOptions(), [].append)


def test_the_last_error_of_a_benchmark_is_one_line(impatient, bundle):
    with pytest.raises(DeviceError) as caught:
        measure_on(StandIn(running("error: \x1b[2Jbad\n", "died")), bundle, BenchOptions(), [].append)
    assert str(caught.value) == r"board: \x1b[2Jbad"


def test_a_result_that_is_always_damaged_is_not_asked_for_for_ever(bundle):
    courier = answering(fetch={"ok": {"size": 0, "sha256": "0"}})
    with CourierLink(StandIn(courier)) as link, pytest.raises(DeviceError, match="arrived damaged"):
        link.fetch("0" * 32)


def test_the_courier_keeps_the_end_of_what_a_program_prints():
    """A megabyte without reading would stop the program, and all of it in memory the board."""
    script = (
        "import runpy, sys; from compress.device.bundle_agent import COURIER; names = runpy.run_path(str(COURIER))\n"
        "print(names['tool'](sys.executable, '-S', '-c', "
        "\"import sys; sys.stderr.write('x' * (1 << 20)); print(); print('last'); sys.exit(3)\"))\n"
        "print(len(names['tool'](sys.executable, '-S', '-c', \"import sys; sys.exit('x' * (1 << 20))\")))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["last", "4095"]  # its line end was the last byte kept
