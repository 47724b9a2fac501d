"""The bench of malformed inputs: generators that a seed decides, and children that are judged for what they did."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from doubles import ROOT

SCRIPTS = ROOT / "scripts"

SCRIPT = """
import os, signal, sys, time
from bench_robustness import doors
from robustness_runner import outcomes
from robustness_case import Case
from compress.core.errors import ConfigError

def raised(error):
    raise error

def two_lines():
    print("error: a\\nb", file=sys.stderr)
    return 2

runs = {
    "fine": lambda: 0,
    "refused": lambda: raised(ConfigError("a")),
    "two lines": two_lines,
    "silent": lambda: 1,
    "traceback": lambda: raised(KeyError("a")),
    "memory": lambda: bytearray(5 << 30),
    "time": lambda: time.sleep(60),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}
cases = (Case(name, lambda folder: (folder / "x").touch(), run) for name, run in runs.items())
print({one.name: one.kind for one in outcomes(cases, 4, 8.0)})
for generator in doors().values():
    names = [[case.name for case in generator(count, seed)] for count, seed in ((6, 1), (6, 1), (3, 1), (6, 2))]
    assert names[0] == names[1] and names[0][:3] == names[2] and names[0] != names[3]
"""


def bench(tmp_path: Path, *arguments: str) -> list[dict]:
    """The bars of a small run of the bench, all of which hold."""
    command = [sys.executable, str(SCRIPTS / "bench_robustness.py"), *arguments, "--json", "bars.json"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    bars = json.loads((tmp_path / "bars.json").read_text())
    assert all(set(bar) == {"name", "value", "unit", "bar", "holds"} and bar["holds"] for bar in bars)
    return bars


@pytest.mark.slow
def test_a_few_inputs_of_every_door(tmp_path):
    bars = bench(tmp_path, "--section", "inputs", "--inputs", "12", "--jobs", "1")
    kinds = {bar["name"].partition(": ")[2] for bar in bars}
    assert kinds == {"traceback", "memory", "time", "crash", "left"}
    assert sum(int(bar["name"].partition("n=")[2].split(":")[0]) for bar in bars) == 12 * len(kinds)


@pytest.mark.slow
def test_a_few_kills(tmp_path):
    bars = bench(tmp_path, "--section", "kills", "--kills", "3", "--jobs", "1", "--scenario", "delivery")
    assert [(bar["name"], bar["value"]) for bar in bars] == [("kills, delivery", 3), ("kills, all", 3)]


def test_children_are_judged_and_inputs_come_from_the_seed(tmp_path):
    paths = os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == {
        "fine": "clean",
        "refused": "clean",
        "two lines": "traceback",
        "silent": "traceback",
        "traceback": "traceback",
        "memory": "memory",
        "time": "time",
        "crash": "crash",
    }
