"""What the gates cost: seconds in `compress.gates` as a share of a whole run.

    python scripts/honesty_gates.py --json gates.json [--data <folder of real networks>]

A run of the embedded digits, and with `--data` one of ResNet-44 on CIFAR-10; rows are
`{"name", "value", "unit", "bar", "holds"}`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import compress.execute
import compress.gates.form
import compress.quantization.static
from compress.__main__ import main

__all__ = ["gate_costs"]

_BAR = 0.03
_GATES = (
    (compress.execute, "hold"),
    (compress.gates.form, "require_equal_graph"),
    (compress.quantization.static, "_outputs"),
    (compress.quantization.static, "_require_equal"),
)
"""Everything that is done for a comparison, where it is called from."""


def gate_costs(data: Path | None) -> list[dict[str, object]]:
    """Share of a run's wall time that its gates take, for each network."""
    runs = {"digits": ["target=raspberry_pi_4"]}
    if data is not None:
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
    return [_row(name, overrides) for name, overrides in runs.items()]


def _row(name: str, overrides: list[str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder, _timed() as spent:
        started = time.perf_counter()
        code = main([*overrides, "-q", "resume=false", f"output={folder}"])
        share = sum(spent) / (time.perf_counter() - started)
    holds = code == 0 and share <= _BAR
    return {"name": f"gates, {name}", "value": round(share, 4), "unit": "of a run", "bar": _BAR, "holds": holds}


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    rows = gate_costs(options.data)
    for row in rows:
        print(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))
