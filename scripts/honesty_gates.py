"""What the gates cost: seconds in `compress.gates` as a share of a whole run.

    python scripts/honesty_gates.py [--json PATH] [--data FOLDER]

A run of the embedded digits, and one of ResNet-44 on CIFAR-10 where its folder is there.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from bench_common import Bar, arguments, at_most, report

import compress.execute
import compress.gates.form
import compress.quantization.static
from compress.__main__ import main

__all__ = ["gate_costs"]

_LIMIT = 0.03  # of a run
_GATES = (
    (compress.execute, "hold"),
    (compress.gates.form, "require_equal_graph"),
    (compress.quantization.static, "_outputs"),
    (compress.quantization.static, "_require_equal"),
)
"""Everything that is done for a comparison, where it is called from."""


def gate_costs(data: Path) -> list[Bar]:
    """Share of a run's wall time that its gates take, for each network."""
    runs = {"digits": ["target=raspberry_pi_4"]}
    if data.is_dir():
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
        started = time.perf_counter()
        code = main([*overrides, "-q", "resume=false", f"output={folder}"])
        share = sum(spent) / (time.perf_counter() - started)
    return at_most(f"gates, {name}", share if code == 0 else None, _LIMIT, "of a run")


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Seconds of every call of a gate."""
    spent: list[float] = []

    def timed(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            started = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent.append(time.perf_counter() - started)

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
