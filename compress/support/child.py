"""Run a program that ends when we do, also when we are killed.

Nobody can act on SIGKILL, so another process watches: a supervisor (this very file, run by itself) starts the program,
both in a process group of their own, and reads from a socket whose other end only we hold. When that closes, because
the work was given up or because we are gone, it ends the group: SIGTERM first, on which `docker run` stops its
container, and SIGKILL after a grace. Not covered: what leaves the group (a daemon of its own), a supervisor that is
killed itself, and Windows, which has no groups.

What is started, and what Python imports in it, never depends on the folder the user happens to be in, which may be an
unpacked download: relative folders of PATH and PYTHONPATH are left out.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["child_environment", "find_program", "run_child"]

_GRACE_SECONDS = 3.0
"""`docker run` hands SIGTERM on at once, and a container with an init process ends on it."""

_LONGEST_ERROR = 16  # bytes of an error number


def child_environment() -> dict[str, str]:
    """Environment of this process for a program it starts; PATH and PYTHONPATH keep their absolute folders."""
    environment = dict(os.environ)
    for name, otherwise in (("PATH", os.defpath), ("PYTHONPATH", "")):
        folders = [folder for folder in environment.pop(name, "").split(os.pathsep) if Path(folder).is_absolute()]
        if folders or otherwise:
            environment[name] = os.pathsep.join(folders) or otherwise
    return environment


def find_program(name: str) -> str | None:
    """Path of a program in an absolute folder of the PATH, or of one given as a path; None if there is none."""
    return shutil.which(name, path=child_environment()["PATH"])


def run_child(
    command: Sequence[str], *, cwd: Path | None = None, timeout: float | None = None, merged: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run an argument vector to its end, without input; its output is text.

    Args:
        timeout: seconds after which it is ended.
        merged: put what it writes to standard error in between its output.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it was ended; `output` is what it had written.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(  # noqa: S603  the caller's argument vector, no shell
                [sys.executable, "-I", "-S", __file__, str(theirs.fileno()), *command],
                cwd=cwd,
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merged else subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as late:
            ours.shutdown(socket.SHUT_WR)
            output, errors = process.communicate()
            raise subprocess.TimeoutExpired(list(command), late.timeout, output, errors) from None
        except BaseException:
            ours.shutdown(socket.SHUT_WR)
            process.communicate()
            raise
        number = ours.recv(_LONGEST_ERROR)
    if number:
        raise OSError(int(number), os.strerror(int(number)), command[0])
    return subprocess.CompletedProcess(list(command), process.returncode, output, errors)


def _supervise(watched: socket.socket, command: list[str]) -> int:
    """Run the command until it ends or `watched` closes; its exit code, negative for a signal."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # what the group gets; a handler, as ignoring would be inherited
    try:
        child = subprocess.Popen(command)  # noqa: S603  the vector this was started with
    except OSError as error:
        watched.send(str(error.errno).encode())
        return 1

    def watch() -> None:
        with suppress(OSError):
            watched.recv(1)
        ending.set()
        os.killpg(0, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    if ending.is_set():
        os.killpg(0, signal.SIGKILL)  # and what it started
    return code


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as end:
        code = _supervise(end, sys.argv[2:])
    if code < 0:
        with suppress(OSError):  # SIGKILL has no handler to reset
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)
