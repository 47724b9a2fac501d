"""Kill runs at random moments, and see that the next one gives the same bytes and nothing wrong stays behind.

SIGKILL, SIGTERM and SIGINT in turn, at times that a seed draws over the length of a run, into recipes that go through
every stage, through training and delivery, into one of two runs that share a store, into multiruns, and into programs
that are still importing. All runs are of one tiny network on a hundred images. After each kill:

    the process ends, with its exit code and one line where it could say something, and nothing it started stays
    every run folder that is there holds what its manifest says
    the same command ends well, and every run folder has the bytes that an undisturbed run has
    no unfinished work is left, and `python -m compress.cache --verify` finds every entry whole

What bytes there are to compare is not written down here: an undisturbed run is done twice, and every file that is the
same in both (all exported files and golden outputs are, as is asserted) has to be the same after a kill.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from robustness_runner import die_with_parent  # and imports what children would import otherwise

from compress.__main__ import main
from compress.cache.__main__ import main as cache
from compress.formats.onnx.translate import _translator
from compress.report.html.matplotlib_door import open_matplotlib

__all__ = ["SCENARIOS", "Kill", "kills"]

_NETWORK = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.inner(x))

def tiny():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), Block(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )
"""

_COMMON = (
    "-q",
    "budget=off",
    "measure=quick",
    "measure.latency_runs=3",
    "measure.latency_warmup=1",
    "measure.latency_seconds=0.01",
    "golden_samples=2",
)
_FEW = ("data.calibration=8", "data.validation=8", "data.evaluation=8")
_OURS = (
    *_FEW,
    "model=factory",
    "model.factory=tiny_nets:tiny",
    "model.input.shape=[1,8,8]",
    "model.input.channel_order=gray",
    "model.input.mean=[0.5]",
    "model.input.std=[0.5]",
    "data=npz",
    "data.file=images.npz",
)
_SCANS = ("+stage@stage.scan=prune_scan", "stage.scan.before=magnitude", "+stage@stage.tight=optimize_graph")
_TRAINING = (
    "+stage@stage.structured=structured",
    "stage.structured.before=fold_batchnorm",
    "stage.structured.keep=0.7",
    "+stage@stage.tune=finetune",
    "stage.tune.before=fold_batchnorm",
    "stage.tune.epochs=4",
    "+stage@stage.gradual=gradual",
    "stage.gradual.before=fold_batchnorm",
    "stage.gradual.amount=0.3",
    "precision=int8_qat",
    "stage.qat.epochs=3",
)

_OPSET = 18
"""What ONNX files are written in, before they are converted to what a target takes."""
_ENDS = 30.0
"""Seconds in which a process that was asked to end has to: it asks itself again after 8 (`signals`)."""
_STARTED_ENDS = 10.0
"""Seconds in which what it had started has to be gone: a supervisor waits for 3 (`compress.support.child`)."""
_LONGEST_RUN = 600.0
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_ENDED_BY = {signal.SIGKILL: (-9,), signal.SIGTERM: (143, -15), signal.SIGINT: (130,)}
_BARE_ENDS = (-signal.SIGINT, -signal.SIGTERM)
"""How a program ends in the hundredth of a second in which Python itself has no handlers yet."""
_WORDS = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}


@dataclass(frozen=True)
class Scenario:
    """A command to kill.

    Attributes:
        share: of all kills, relative to the others.
        cold: in a new interpreter, from its first import on, instead of one that has imported everything.
        stored: its stages are in the store already, so that little but measuring and delivery is left.
        twice: two of it run at once, and one of them is killed.
    """

    command: tuple[str, ...]
    share: int
    cold: bool = False
    stored: bool = False
    twice: bool = False


SCENARIOS: Mapping[str, Scenario] = {
    "int8": Scenario(("target=raspberry_pi_4", *_COMMON, *_OURS, *_SCANS), 5),
    "training": Scenario(("target=raspberry_pi_4", *_COMMON, *_OURS, *_TRAINING), 6),
    "delivery": Scenario(("target=raspberry_pi_4", *_COMMON, *_OURS), 4, stored=True),
    "jetson": Scenario(("target=jetson_orin_nano", *_COMMON, *_OURS), 2),
    "coral": Scenario(("target=coral", *_COMMON, *_OURS), 2),
    "shared": Scenario(("target=raspberry_pi_4", *_COMMON, *_OURS), 4, twice=True),
    "multirun": Scenario(
        ("-m", "target=raspberry_pi_4", *_COMMON, *_OURS, "stage.magnitude.amount=0.2,0.6", "precision=fp32,int8"), 4
    ),
    "imports": Scenario(("target=raspberry_pi_4", *_COMMON, *_OURS), 3, cold=True, stored=True),
    "embedded": Scenario(
        ("target=jetson_nano", *_COMMON, "model.epochs=1", "data.finetune=256", *_FEW),
        2,
    ),
}

Bytes = frozenset[tuple[str, str]]
"""Path and SHA-256 of the files of a run folder."""


@dataclass(frozen=True)
class Kill:
    """What came of one: `faults` is empty where all is as it should be."""

    number: int
    scenario: str
    signal: str
    after: float
    faults: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Reference:
    """What a command gives that nobody disturbs: seconds it takes, names that are the same each time, and their bytes,
    one for each run of a multirun."""

    seconds: float
    names: frozenset[str]
    runs: frozenset[Bytes]
    folder: Path


def kills(number: int, seed: int, jobs: int, names: tuple[str, ...] = tuple(SCENARIOS)) -> Iterator[Kill]:
    """Kill so many runs, `jobs` at a time, in the order in which they are done with."""
    plan = _plan(number, seed, names)
    root = Path(tempfile.mkdtemp(prefix="robustness-kills-"))
    try:
        _make_inputs(root / "inputs")
        with ProcessPoolExecutor(jobs, get_context("fork"), _warm) as pool:
            wanted = sorted({name for name, _ in plan})
            futures = {name: pool.submit(_reference, name, root) for name in wanted}
            references = {name: future.result() for name, future in futures.items()}
            pending = [
                pool.submit(_killed, place, name, _SIGNALS[place % len(_SIGNALS)], chance, references[name], root)
                for place, (name, chance) in enumerate(plan)
            ]
            for future in as_completed(pending):
                yield future.result()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _plan(number: int, seed: int, names: tuple[str, ...]) -> list[tuple[str, float]]:
    """A scenario and a moment, as a share of its length, for each kill."""
    rng = random.Random(seed)
    deck = [name for name in names for _ in range(SCENARIOS[name].share)]
    drawn: list[str] = []
    while len(drawn) < number:
        rng.shuffle(deck)
        drawn += deck
    return [(name, rng.random()) for name in drawn[:number]]


def _make_inputs(folder: Path) -> None:
    import numpy as np

    folder.mkdir(parents=True)
    (folder / "tiny_nets.py").write_text(_NETWORK)
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 4
    images = generator.integers(0, 120, (120, 8, 8, 1)) + 30 * labels[:, None, None, None]
    np.savez(folder / "images.npz", images=images.astype(np.uint8), labels=labels)


def _warm() -> None:
    """Do once, in a worker, what its children would do each time: most of a run of so small a network is imports.

    No model is run here. A library that has computed has threads and locks, and children that are forked then wait for
    threads that they do not have.
    """
    import torch._dynamo
    import torch.onnx  # noqa: F401

    open_matplotlib()
    _translator(_OPSET)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise AssertionError(f"{threads} threads: children could wait for one of them for ever")


def _reference(name: str, root: Path) -> _Reference:
    """Run a command undisturbed, twice from nothing."""
    scenario = SCENARIOS[name]
    runs: list[list[dict[str, str]]] = []
    seconds = 0.0
    for place in ("first", "second"):
        folder = _folder(root / f"{name}-{place}", root)
        _whole_run(scenario, folder)
        runs.append([_digests(run) for run in _run_folders(folder)])
    names = frozenset(
        file
        for first, second in zip(*runs, strict=True)
        for file in first
        if all(first[file] == second.get(file) for first, second in zip(*runs, strict=True) if file in first)
    )
    for run in runs[0]:
        missing = {file for file in run if file.endswith((".onnx", ".tflite", ".npz"))} - names
        if missing:
            raise AssertionError(f"{name}: undisturbed runs differ in {', '.join(sorted(missing))}")
    seconds = _length(scenario, root / f"{name}-length", root, root / f"{name}-first")
    return _Reference(seconds, names, frozenset(_kept(run, names) for run in runs[0]), root / f"{name}-first")


def _length(scenario: Scenario, place: Path, root: Path, finished: Path) -> float:
    """Seconds that a run takes in the state in which it will be killed."""
    folder = _folder(place, root, finished if scenario.stored else None)
    started = time.monotonic()
    processes = [_start(scenario, folder, number) for number in range(1 + scenario.twice)]
    for process in processes:
        if process.wait(_LONGEST_RUN) != 0:
            raise AssertionError(f"an undisturbed run failed: {process.errors()}")
    return time.monotonic() - started


def _killed(
    number: int, name: str, with_signal: signal.Signals, chance: float, reference: _Reference, root: Path
) -> Kill:
    """Kill one run; where it was faster than the signal, sooner in another try."""
    scenario = SCENARIOS[name]
    after = chance * reference.seconds
    for attempt in range(20):
        folder = _folder(root / f"{number}-{attempt}", root, reference.folder if scenario.stored else None)
        processes = [_start(scenario, folder, place) for place in range(1 + scenario.twice)]
        time.sleep(after)
        if not processes[0].alive():
            processes[-1].wait(_LONGEST_RUN)
            shutil.rmtree(folder, ignore_errors=True)
            after *= 0.8
            continue
        try:
            faults = tuple(_after(processes, with_signal, scenario, reference, folder))
        except Exception:
            faults = (traceback.format_exc().splitlines()[-1],)
        if not faults:
            shutil.rmtree(folder, ignore_errors=True)
        return Kill(number, name, with_signal.name, round(after, 2), faults)
    return Kill(number, name, with_signal.name, after, ("never killed: it always ended before",))


def _after(
    processes: list[_Process], with_signal: signal.Signals, scenario: Scenario, reference: _Reference, folder: Path
) -> Iterator[str]:
    """Kill the first of the processes, and say what is not as it should be."""
    processes[0].kill(with_signal)
    code = processes[0].wait(_ENDS)
    errors = processes[0].errors()
    raced = code == 0  # it was done when the signal came
    bare = scenario.cold and code in _BARE_ENDS and not errors
    if not raced and not bare and code not in _ENDED_BY[with_signal]:
        yield f"exit code {code}: {errors[-300:]!r}"
    if "Traceback" in errors or (code in (130, 143) and not errors.startswith(_WORDS[with_signal])):
        yield f"told in other words: {errors[-300:]!r}"
    for other in processes[1:]:
        if other.wait(_LONGEST_RUN) != 0:
            yield f"the run beside it failed: {other.errors()[-300:]!r}"
    if left := _still_running(folder):
        yield f"left running: {left}"
    yield from _damaged_runs(folder)
    try:
        _whole_run(scenario, folder)
    except AssertionError as error:
        yield str(error)
        return
    yield from _damaged_runs(folder)
    there = {_kept(_digests(run), reference.names) for run in _run_folders(folder)}
    if there != reference.runs:
        yield f"other bytes: {sorted({file for run in there - reference.runs for file, _ in run})[:8]}"
    if unfinished := [str(path.relative_to(folder)) for path in folder.rglob(".tmp-*")]:
        yield f"left behind: {unfinished[:4]}"
    if left_files := [path.name for path in (folder / "tmp").iterdir()]:
        yield f"left in TMPDIR: {left_files[:4]}"
    verified = _forked(folder, "verify", lambda: cache([str(folder / "outputs"), "--verify"]))
    if verified.wait(_LONGEST_RUN) != 0:
        yield f"the store: {verified.errors()[-300:]!r}"


def _damaged_runs(folder: Path) -> Iterator[str]:
    """Run folders that hold something else than their manifest says."""
    for run in _run_folders(folder):
        try:
            files = json.loads((run / "manifest.json").read_bytes())["files"]
        except (OSError, ValueError) as error:
            yield f"{run.name}: {error}"
            continue
        there = _digests(run)
        there.pop("manifest.json")
        if there != {record["path"]: record["sha256"] for record in files}:
            yield f"{run.name} is not what its manifest says"


def _whole_run(scenario: Scenario, folder: Path) -> None:
    """Run the command to its end, with all imports done."""
    process = _forked(folder, "whole", lambda: main(list(scenario.command)))
    code = process.wait(_LONGEST_RUN)
    if code != 0:
        raise AssertionError(f"the next run ended with {code}: {process.errors()[-300:]!r}")


def _folder(folder: Path, root: Path, finished: Path | None = None) -> Path:
    """A working folder with the inputs, and with the stored stages of a finished run if one is given."""
    shutil.copytree(root / "inputs", folder)
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    if finished is not None:
        shutil.copytree(finished / "outputs" / ".cache", folder / "outputs" / ".cache")
    return folder


def _run_folders(folder: Path) -> list[Path]:
    """Finished runs; `multirun` compares them, and what begins with a dot is the store and unfinished work."""
    targets = [path for path in (folder / "outputs").glob("[!.]*") if path.name != "multirun"]
    return sorted(run for target in targets for run in target.glob("[!.]*"))


def _digests(run: Path) -> dict[str, str]:
    paths = sorted(path for path in run.rglob("*") if path.is_file())
    return {path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _kept(digests: Mapping[str, str], names: frozenset[str]) -> Bytes:
    return frozenset((name, digest) for name, digest in digests.items() if name in names)


@dataclass
class _Process:
    """A program that was started in a process group of its own; `code` is None as long as it runs."""

    pid: int
    log: Path
    code: int | None = None

    def alive(self) -> bool:
        if self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if done else None
        return self.code is None

    def wait(self, seconds: float) -> int:
        """The exit code, negative for a signal; it is killed if it takes longer."""
        end = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                end = float("inf")
            time.sleep(0.01)
        assert self.code is not None
        return self.code

    def kill(self, number: signal.Signals) -> None:
        """As `kill` does; Ctrl-C goes to the whole group, as from a terminal."""
        with suppress(ProcessLookupError):
            (os.killpg if number is signal.SIGINT else os.kill)(self.pid, number)

    def errors(self) -> str:
        return self.log.read_text(errors="replace")


def _start(scenario: Scenario, folder: Path, number: int) -> _Process:
    command = list(scenario.command)
    if scenario.cold:
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
        program = [sys.executable, "-m", "compress", *command]
        return _forked(folder, f"run{number}", lambda: os.execv(sys.executable, program))
    return _forked(folder, f"run{number}", lambda: main(command))


def _environment(folder: Path) -> dict[str, str]:
    home = folder / "home"
    return {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "TMPDIR": str(folder / "tmp")}


def _forked(folder: Path, name: str, work: Callable[[], int]) -> _Process:
    """Do work in a child in this folder, as the program itself would."""
    log = folder / f"{name}.log"
    pid = os.fork()
    if pid:
        with suppress(OSError):  # it may have done so itself, and have ended
            os.setpgid(pid, pid)
        return _Process(pid, log)
    code = 70
    try:
        os.setpgid(0, 0)
        die_with_parent()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _move_into(folder, log)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _move_into(folder: Path, log: Path) -> None:
    """Let this process write its standard error to a file, and work in a folder as if its user had no other."""
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.chdir(folder)
    os.environ.update(_environment(folder))
    tempfile.tempdir = None
    sys.path.insert(0, str(folder))


def _still_running(folder: Path) -> list[str]:
    """Programs with this folder in their environment that are still there after a while."""
    end = time.monotonic() + _STARTED_ENDS
    while (names := _running(folder)) and time.monotonic() < end:
        time.sleep(0.1)
    return names


def _running(folder: Path) -> list[str]:
    mark = f"TMPDIR={folder}/tmp".encode() + b"\0"
    names = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes():
                names.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200])
    return names
