"""The bench of malformed inputs: generators that a seed decides, and children that are judged for what they did."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

SCRIPT = """
import os, signal, sys, time
from bench_robustness import doors
from robustness_runner import outcomes
from robustness_case import Case
from compress.errors import ConfigError

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
    names = [[case.name for case in generator(count, seed)] for count, seed in ((20, 1), (20, 1), (10, 1), (20, 2))]
    assert names[0] == names[1] and names[0][:10] == names[2] and names[0] != names[3]
"""


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
