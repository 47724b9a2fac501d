"""Give inputs to the program, each in a child of its own that was forked after all imports, and judge what it did."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child has no other threads

from robustness_case import Case

from compress.core.errors import CompressError
from compress.pipeline.store import StageStore
from compress.pipeline.store_size import stored

__all__ = ["FAULTS", "Outcome", "die_with_parent", "judged", "outcomes"]

FAULTS = ("traceback", "memory", "time", "crash", "left")
MEMORY_BYTES = 4 << 30
"""What a child may take besides what it was forked with; the bar of the memory that a file may cost."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ESCAPED = 70  # exit code of a child out of which an exception got
_NO_MEMORY = ("error: out of memory", "MemoryError", "bad_alloc", "not enough memory", "can't allocate memory")
"""How Python, C++, and PyTorch on Linux say that the limit was reached, also where a line is made of it."""


@dataclass(frozen=True)
class Outcome:
    """What came of one input; `detail` is the last line it wrote to standard error."""

    name: str
    kind: str
    code: int
    seconds: float
    peak_mib: float
    detail: str


@dataclass
class _Child:
    case: Case
    folder: Path
    started: float
    killed: bool = False


def judged(code: int, errors: str, killed: bool) -> str:
    """The kind of an outcome, from the exit code (negative: a signal) and what was written to standard error."""
    lines = errors.splitlines()
    if killed:
        return "time"
    if any(sign in errors for sign in _NO_MEMORY):
        return "memory"
    if code < 0:
        return "crash"
    told = code in (1, 2) and bool(lines) and all(line.startswith("error: ") for line in lines)
    return "clean" if (code == 0 and "Traceback" not in errors) or told else "traceback"


def outcomes(cases: Iterator[Case], jobs: int, seconds: float) -> Iterator[Outcome]:
    """Run every case, `jobs` at a time, in the order in which they end."""
    root = Path(tempfile.mkdtemp(prefix="robustness-"))
    running: dict[int, _Child] = {}
    try:
        for number, case in enumerate(cases):
            while len(running) >= jobs:
                yield from _ended(running, seconds)
            folder = root / str(number)
            (folder / "here").mkdir(parents=True)
            running[_forked(case, folder)] = _Child(case, folder, time.monotonic())
        while running:
            yield from _ended(running, seconds)
    finally:
        for process in running:
            _end_group(process)
        shutil.rmtree(root, ignore_errors=True)


def _ended(running: dict[int, _Child], seconds: float) -> Iterator[Outcome]:
    """Those that have ended since; kills who is late."""
    time.sleep(0.002)
    for process, child in list(running.items()):
        if time.monotonic() - child.started > seconds and not child.killed:
            child.killed = True
            _end_group(process)
        done, status, usage = os.wait4(process, os.WNOHANG)
        if done:
            _end_group(process)  # what it started and did not end
            del running[process]
            yield _outcome(child, os.waitstatus_to_exitcode(status), usage.ru_maxrss << 10)


def _end_group(process: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


def _outcome(child: _Child, code: int, peak_bytes: int) -> Outcome:
    errors = (child.folder / "stderr").read_text(errors="replace") if (child.folder / "stderr").exists() else ""
    took = time.monotonic() - child.started
    kind, detail = judged(code, errors, child.killed), errors.splitlines()[-1][:300] if errors.strip() else ""
    if kind == "clean" and peak_bytes > MEMORY_BYTES:
        kind = "memory"
    if kind == "clean" and (left := _left(child.folder / "here")):
        kind, detail = "left", left
    shutil.rmtree(child.folder, ignore_errors=True)
    return Outcome(child.case.name, kind, code, took, peak_bytes / 2**20, detail)


def _left(folder: Path) -> str:
    """What is wrong with what an ended run left in its working folder: unfinished work, or a damaged stored stage."""
    unfinished = next(folder.rglob(".tmp-*"), None)
    if unfinished is not None:
        return f"left behind: {unfinished.relative_to(folder)}"
    for root in folder.rglob(".cache/stages"):
        if (root / "k").exists():  # the input itself is a store
            continue
        damaged = [entry.key for entry in stored(root) if not StageStore.whole(root, entry.key)]
        if damaged:
            return f"a damaged entry: {damaged[0]}"
    return ""


def _forked(case: Case, folder: Path) -> int:
    """Start a child that prepares and runs a case; its number."""
    process = os.fork()
    if process:
        with suppress(OSError):  # it may have done so itself, and have ended
            os.setpgid(process, process)
        return process
    code = _ESCAPED
    try:
        code = _child(case, folder)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends: nobody else would, in a process group of its own."""
    if hasattr(libc := ctypes.CDLL(None), "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _child(case: Case, folder: Path) -> int:
    os.setpgid(0, 0)
    die_with_parent()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder / "here")
    case.prepare(Path.cwd())
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, now + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        code = case.run()
        return code if isinstance(code, int) else 0
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
