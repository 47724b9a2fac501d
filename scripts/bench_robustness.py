"""Whether a malformed input gets one line: thousands of them, each given to the program in a process of its own.

    python scripts/bench_robustness.py [--json PATH] [--inputs N] [--seed N] [--doors yaml paths ...] [--jobs N]

Every door has a generator of inputs (`robustness_*.py`), which a seed decides. A child that was forked after all
imports prepares an input in an empty folder and runs it with limits of time and memory. What comes of it is

    clean        exit code 0; or 1 or 2 and on standard error only lines that begin with `error: `, one for each run
    traceback    an exception got out, or there is another line
    memory       the process was about to take more than the limit
    time         it had not ended in time
    crash        a signal ended it

The bar is 0 of everything but clean. Exit code 1 where it is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child has no other threads

from bench_common import Bar, report
from rich.console import Console
from robustness_case import Case, Generator
from robustness_paths import paths
from robustness_yaml import overrides, yaml_files

import compress.report.terminal
import compress.run  # what a child would import otherwise, thousands of times
import compress.runtimes.onnx
import compress.runtimes.torch  # noqa: F401
from compress.errors import CompressError

DOORS: dict[str, Generator] = {"yaml": yaml_files, "overrides": overrides, "paths": paths}
"""Where inputs come in. A new door is a generator, and a line here."""

FAULTS = ("traceback", "memory", "time", "crash")
_MEMORY_BYTES = 4 << 30  # that a child may take besides what it was forked with
_SECONDS = 60.0
_ESCAPED = 70  # exit code of a child out of which an exception got
_OUT_OF_MEMORY = 71
_SHOWN = 8

console = Console(width=140)


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
    killed: bool = field(default=False)


def judged(code: int, errors: str, killed: bool) -> str:
    """The kind of an outcome, from the exit code (negative: a signal) and what was written to standard error."""
    lines = errors.splitlines()
    if killed:
        return "time"
    if code < 0:
        return "crash"
    if code == _OUT_OF_MEMORY:
        return "memory"
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
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(root, ignore_errors=True)


def _ended(running: dict[int, _Child], seconds: float) -> Iterator[Outcome]:
    """Those that have ended since; kills who is late."""
    time.sleep(0.002)
    for process, child in list(running.items()):
        if time.monotonic() - child.started > seconds and not child.killed:
            child.killed = True
            os.kill(process, signal.SIGKILL)
        done, status, usage = os.wait4(process, os.WNOHANG)
        if done:
            del running[process]
            yield _outcome(child, os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024)


def _outcome(child: _Child, code: int, peak_mib: float) -> Outcome:
    errors = (child.folder / "stderr").read_text(errors="replace") if (child.folder / "stderr").exists() else ""
    shutil.rmtree(child.folder, ignore_errors=True)
    detail = errors.splitlines()[-1][:300] if errors.strip() else ""
    took = time.monotonic() - child.started
    return Outcome(child.case.name, judged(code, errors, child.killed), code, took, peak_mib, detail)


def _forked(case: Case, folder: Path) -> int:
    """Start a child that prepares and runs a case; its number."""
    process = os.fork()
    if process:
        return process
    code = _ESCAPED
    try:
        code = _child(case, folder)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _child(case: Case, folder: Path) -> int:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.setpgid(0, 0)
    os.chdir(folder / "here")
    case.prepare(Path.cwd())
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY_BYTES, now + _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        code = case.run()
        return code if isinstance(code, int) else 0
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except MemoryError:
        traceback.print_exc()
        return _OUT_OF_MEMORY


def main() -> int:
    options = _arguments()
    bars: list[Bar] = []
    sections: dict[str, object] = {}
    counts = _shares(options.inputs, options.doors)
    for door, count in counts.items():
        started = time.monotonic()
        found = list(outcomes(DOORS[door](count, options.seed), options.jobs, options.seconds))
        section = _section(found, time.monotonic() - started)
        sections[door] = section
        bars += [
            Bar(f"{door}: {kind}", float(_number(found, kind)), "", "<= 0", not _number(found, kind)) for kind in FAULTS
        ]
        _show(door, found)
        if options.json is not None:
            document = {"schema": 1, "seed": options.seed, "seconds": options.seconds, "doors": sections}
            options.json.write_text(json.dumps(document, indent=2, ensure_ascii=True) + "\n")
    report(bars, None)
    return 0 if all(bar.holds for bar in bars) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write counts and faults as JSON")
    parser.add_argument("--inputs", type=int, default=3000, help="of all doors together; default 3000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--doors", nargs="+", choices=sorted(DOORS), default=sorted(DOORS))
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="longest time for one input; default 60")
    return parser.parse_args()


def _shares(inputs: int, doors: Sequence[str]) -> dict[str, int]:
    """So many inputs for each door that they are `inputs` together."""
    each, left = divmod(inputs, len(doors))
    return {door: each + (place < left) for place, door in enumerate(doors)}


def _number(found: Sequence[Outcome], kind: str) -> int:
    return sum(outcome.kind == kind for outcome in found)


def _section(found: Sequence[Outcome], seconds: float) -> dict[str, object]:
    faults = [outcome for outcome in found if outcome.kind != "clean"]
    return {
        "inputs": len(found),
        **{kind: _number(found, kind) for kind in ("clean", *FAULTS)},
        "refused": sum(outcome.kind == "clean" and outcome.code != 0 for outcome in found),
        "seconds": round(seconds, 1),
        "slowest_seconds": round(max((outcome.seconds for outcome in found), default=0.0), 2),
        "largest_mib": round(max((outcome.peak_mib for outcome in found), default=0.0)),
        "faults": [vars(outcome) for outcome in faults],
    }


def _show(door: str, found: Sequence[Outcome]) -> None:
    counts = ", ".join(f"{_number(found, kind)} {kind}" for kind in ("clean", *FAULTS))
    console.print(f"{door}: {len(found)} inputs: {counts}", highlight=False)
    for outcome in [one for one in found if one.kind != "clean"][:_SHOWN]:
        console.print(f"  {outcome.kind}: {outcome.name}: {outcome.detail}", markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
