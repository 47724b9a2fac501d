"""Freed memory is used again: the kernel hands out no new pages for it. Idle threads sleep."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from compress.support.allocator import let_idle_threads_sleep

PROGRAM = """
import resource, sys
from compress.support.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import numpy as np
for _ in range(3):
    np.ones(50_000_000, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(50_000_000, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_freed_blocks_are_not_given_back():
    assert page_faults("keep") < page_faults("default") / 10


@pytest.mark.parametrize(
    ("own", "policy"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "9"}, None)]
)
def test_idle_threads_sleep_unless_the_user_says_otherwise(monkeypatch, own, policy):
    monkeypatch.setattr(os, "environ", dict(own))
    let_idle_threads_sleep()
    assert os.environ.get("OMP_WAIT_POLICY") == policy
