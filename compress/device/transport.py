"""Ways to a device: a program that runs there, with a pipe to its input and one from its output."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from compress.core.errors import ConfigError, DeviceError, Unreachable
from compress.device.bundle_agent import COURIER
from compress.support.child import child_environment

__all__ = ["LONGEST_LINE", "OPEN_SECONDS", "Channel", "ConnectionLost", "LocalTransport", "SshTransport", "Transport"]

_HOST = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?(?P<host>[A-Za-z0-9_][A-Za-z0-9._-]*)(?::(?P<port>[0-9]{1,5}))?"
)
_ALIVE_SECONDS, _ALIVE_COUNT = 5, 3  # so many unanswered questions of this spacing end a dead connection
_CONNECT_SECONDS = 15
OPEN_SECONDS = 60.0
"""Longest wait for a device's first word: connecting, logging in, and Python starting from a slow card."""
LONGEST_LINE = 8 << 20
"""Bytes of one answer: the courier's longest, 1 MiB of printed text, with every character escaped."""
_END_SECONDS = 5.0  # a program that was asked to end
_PIPE_BYTES = 1 << 16  # what Linux keeps in a pipe
_KEPT_BYTES = 1 << 16  # of error output: its last lines say what is wrong
_SSH_FAILED = 255  # ssh(1): an error of its own, not of the command
_NOT_FOUND = 127  # POSIX shells: no such command


class ConnectionLost(Exception):
    """The pipe broke or nothing came through in time; the device may come back."""


class Channel:
    """A courier that runs on the device. Whatever it does, no call outlives its time and nothing it says piles up."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("the process needs pipes")
        self._process = process
        self._input: IO[bytes] = process.stdin
        self._output: IO[bytes] = process.stdout
        self._complaints = bytearray()
        self._drain = threading.Thread(target=self._keep_complaints, args=(process.stderr,), daemon=True)
        self._drain.start()

    def ask(self, request: bytes, seconds: float) -> bytes:
        """Send a request and read one line, without its end where it is too long; empty where the courier is gone.

        Raises:
            ConnectionLost: there was no answer in time; the courier was ended.
        """
        with self._within(seconds):
            self._input.write(request)
            self._input.flush()
            return self._output.readline(LONGEST_LINE)
        return b""

    def read(self, size: int, seconds: float) -> bytes:
        """The next `size` bytes; fewer where the courier is gone.

        Raises:
            ConnectionLost: they did not come in time; the courier was ended.
        """
        with self._within(seconds):
            return self._output.read(size)
        return b""

    def finish(self, content: bytes, seconds: float) -> tuple[int, str]:
        """Send the last input and let the program end; its exit code and error output. What it prints is not kept.

        Raises:
            ConnectionLost: it did not end in time; it was ended.
        """
        with self._within(seconds):
            with suppress(OSError):  # it may have ended without reading; its complaint says why
                self._input.write(content)
                self._input.close()
            while self._output.read1(_PIPE_BYTES):  # type: ignore[attr-defined]  # Popen's pipes are buffered readers
                pass
        return self.complaint()

    def close(self) -> None:
        """End the courier; a benchmark it started goes on."""
        self._end()
        for stream in (self._input, self._output):
            with suppress(OSError):  # flushing into a broken pipe
                stream.close()

    def complaint(self) -> tuple[int, str]:
        """Exit code and the end of the error output of a courier that ended, or now has to."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self._end()
        self._drain.join(_END_SECONDS)  # a program that outlives ssh may hold the pipe
        return self._process.returncode, bytes(self._complaints).decode(errors="replace")

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """Kill the courier when the block takes longer: that ends every read and write on its pipes."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._kill()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            with suppress(OSError):  # a broken pipe: what could be read tells
                yield
        finally:
            timer.cancel()
        if expired.is_set():
            raise ConnectionLost(f"no answer within {seconds:g} s")

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()

    def _kill(self) -> None:
        """Kill it and its children: a proxy command would keep the pipes open. `_spawn` gave it a group of its own."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _keep_complaints(self, stream: IO[bytes]) -> None:
        """Read all of standard error, as a full pipe would stop the courier, and keep the end."""
        with stream:
            while content := os.read(stream.fileno(), _PIPE_BYTES):
                self._complaints += content
                del self._complaints[:-_KEPT_BYTES]


class Transport(Protocol):
    """Way to get a courier running on one device."""

    @property
    def name(self) -> str: ...

    def open(self) -> Channel:
        """Start a courier.

        Raises:
            Unreachable: the device does not answer.
            DeviceError: it answers, and refuses us or has no Python.
        """
        ...


@dataclass(frozen=True)
class LocalTransport:
    """Transport to this very machine: for those who work on the board itself."""

    name: str = "local"

    def open(self) -> Channel:
        return Channel(_spawn([sys.executable, "-u", str(COURIER)]))


@dataclass(frozen=True)
class SshTransport:
    """A device behind the system's own OpenSSH, with the user's keys, agent and ~/.ssh/config.

    Host keys are always checked and never accepted here; passwords are never asked for.

    Attributes:
        host: `user@host[:port]` or an alias of the configuration.
        identity: file of a private key.
        config: file to read instead of ~/.ssh/config.
    """

    host: str
    identity: Path | None = None
    config: Path | None = None

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise ConfigError(f"{self.host!r} is not a device", fix="write user@host, user@host:port, or local")

    @property
    def name(self) -> str:
        return self.host

    def open(self) -> Channel:
        channel = self._courier()
        if channel is not None:
            return channel
        self._send_courier()
        channel = self._courier()
        if channel is None:
            raise DeviceError(
                f"{self.host}: the courier was copied and is not there", fix="look at ~/.cache on the device"
            )
        return channel

    def _courier(self) -> Channel | None:
        """A running courier, or None when the device does not have this one yet."""
        channel = Channel(_spawn(self._command(f"exec python3 -u {_remote_path()}")))
        try:
            if channel.ask(b'{"do": "hello"}\n', OPEN_SECONDS):
                return channel
        except ConnectionLost as error:
            channel.close()
            raise self._silent(error) from error
        code, text = channel.complaint()
        channel.close()
        if code == _SSH_FAILED:
            raise _explained(self.host, text)
        if code == _NOT_FOUND:
            raise DeviceError(f"{self.host} has no python3", fix="on the device: sudo apt install python3 python3-venv")
        if "No such file" in text or "can't open file" in text:
            return None
        raise DeviceError(f"{self.host}: {_last_line(text)}", fix="see that python3 runs on the device")

    def _send_courier(self) -> None:
        remote = _remote_path()
        command = f"umask 077; mkdir -p {_REMOTE_FOLDER} && cat > {remote}.part && mv {remote}.part {remote}"
        channel = Channel(_spawn(self._command(command)))
        try:
            code, errors = channel.finish(COURIER.read_bytes(), OPEN_SECONDS)
        except ConnectionLost as error:
            raise self._silent(error) from error
        finally:
            channel.close()
        if code == _SSH_FAILED:
            raise _explained(self.host, errors)
        if code:
            reason = _last_line(errors)
            raise DeviceError(
                f"{self.host}: nothing can be written in the home folder: {reason}", fix="free some space"
            )

    def _silent(self, error: ConnectionLost) -> Unreachable:
        return Unreachable(f"{self.host} lets us in and says nothing: {error}", fix="see that python3 runs there")

    def _command(self, remote: str) -> list[str]:
        """`remote` is made of constants of this module and reaches the device's shell as it is."""
        match = _HOST.fullmatch(self.host)
        assert match is not None
        options = ["-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
        options += ["-o", f"ServerAliveInterval={_ALIVE_SECONDS}", "-o", f"ServerAliveCountMax={_ALIVE_COUNT}"]
        options += ["-o", f"ConnectTimeout={_CONNECT_SECONDS}"]
        options += ["-F", str(self.config)] if self.config else []
        options += ["-i", str(self.identity), "-o", "IdentitiesOnly=yes"] if self.identity else []
        options += ["-p", match["port"]] if match["port"] else []
        options += ["-l", match["user"]] if match["user"] else []
        return ["ssh", *options, "--", match["host"], remote]


_REMOTE_FOLDER = ".cache/edge-compress"


def _remote_path() -> str:
    """Named after its content: a device that has it needs no copy, and another release brings its own."""
    return f"{_REMOTE_FOLDER}/courier-{hashlib.sha256(COURIER.read_bytes()).hexdigest()[:16]}.py"


def _spawn(command: Sequence[str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    environment = {**child_environment(), "LC_ALL": "C", "ORT_DISABLE_TELEMETRY": "1"}
    try:
        return subprocess.Popen(  # noqa: S603  a list of arguments, no shell
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
        )
    except FileNotFoundError as error:
        raise ConfigError(
            f"the program {command[0]!r} is not installed here", fix="install OpenSSH's client"
        ) from error


def _explained(host: str, text: str) -> DeviceError:
    """OpenSSH's complaint as one line with what to do."""
    if "Host key verification failed" in text or "host key" in text.lower():
        changed = "REMOTE HOST IDENTIFICATION HAS CHANGED" in text
        problem = "shows another host key than the one you know" if changed else "shows a host key you do not know yet"
        fix = "compare the fingerprint with the device's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then "
        fix += "remove the old one: ssh-keygen -R host" if changed else "connect once by hand: ssh " + host
        return DeviceError(f"{host} {problem}; nothing was sent", fix=fix)
    if "Permission denied" in text:
        return DeviceError(f"{host} accepts none of your keys; passwords are not used", fix=f"ssh-copy-id {host}")
    return Unreachable(
        f"{host} cannot be reached: {_last_line(text)}", fix="see that it is switched on and `ssh` gets there"
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no answer"
