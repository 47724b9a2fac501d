"""What the gates cost: processor time in `compress.verify` as a share of a whole run's.

    python scripts/honesty_gates.py [--json PATH] [--data FOLDER]

A run of the embedded digits, and one of ResNet-44 on CIFAR-10 where its folder is there.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from bench_common import Bar, arguments, at_most, report

import compress.pipeline.execute
import compress.quantization.static
import compress.verify.form
from compress.__main__ import main

__all__ = ["gate_costs"]

_LIMIT = 0.03  # of a run
_GATES = (
    (compress.pipeline.execute, "hold"),
    (compress.verify.form, "require_equal_graph"),
    (compress.quantization.static, "_outputs"),
    (compress.quantization.static, "_require_equal"),
)
"""Everything that is done for a comparison, where it is called from."""


def gate_costs(data: Path) -> list[Bar]:
    """Share of a run's processor time that its gates take, for each network."""
    runs = {"digits": ["target=raspberry_pi_4"]}
    if data.is_dir():
        sys.path.insert(0, str(data))  # nets.py
        runs["resnet44"] = [
            "target=raspberry_pi_4",
            "model=factory",
            "model.factory=nets:resnet44",
            f"model.checkpoint={data / 'weights/resnet44-014dd654.th'}",
            "model.input.shape=[3,32,32]",
            "data=image_folder",
            f"data.train={data / 'images/cifar10_train4000'}",
            f"data.test={data / 'images/cifar10_test500'}",
        ]
    return [_cost(name, overrides) for name, overrides in runs.items()]


def _cost(name: str, overrides: list[str]) -> Bar:
    with tempfile.TemporaryDirectory() as folder, _timed() as spent:
        started = time.process_time()
        code = main([*overrides, "-q", "resume=false", f"output={folder}"])
        share = sum(spent) / (time.process_time() - started)
    return at_most(f"gates, {name}", share if code == 0 else None, _LIMIT, "of a run")


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Processor seconds of every call of a gate, all threads; one that another gate makes is part of that one's."""
    spent: list[float] = []
    depth = 0

    def timed(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            nonlocal depth
            started, depth = time.process_time(), depth + 1
            try:
                return function(*args, **options)
            finally:
                depth -= 1
                if not depth:
                    spent.append(time.process_time() - started)

        return call

    patches = [mock.patch.object(owner, name, timed(getattr(owner, name))) for owner, name in _GATES]
    for patch in patches:
        patch.start()
    try:
        yield spent
    finally:
        for patch in patches:
            patch.stop()


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0]).parse_args()
    report(gate_costs(options.data), options.json)
