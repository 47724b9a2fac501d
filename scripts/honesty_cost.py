"""What the command costs on a network of real size: processor seconds and memory of MobileNetV2 at 224 pixels.

    python scripts/honesty_cost.py [--json PATH] [--data FOLDER]

A default run with `measure=quick` and with `measure=full`, 128 calibration images, and adaptive rounding alone. Weights
are random: what is computed takes as long, and nothing is downloaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from bench_common import Bar, arguments, at_most, report
from torchvision.models import mobilenet_v2

from compress.core.artifact import InputSpec
from compress.data import CsvData, load_splits
from compress.quantization.observers.min_max import MinMax
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, float_graph, prepare, set_mode
from compress.quantization.recovery.adaround import AdaRoundOptions, round_adaptively
from compress.quantization.static import CalibrationImages
from compress.quantization.tensor_quantizer import Mode

__all__ = ["cost_bars"]

T = TypeVar("T")

_SPEC = InputSpec((3, 224, 224))
_SECONDS = {"quick": 45.0, "full": 80.0}
_QUICK_MB = 1200.0
_ADAROUND_MINUTES = 3.0
_BATCH = 8


def cost_bars(data: Path) -> list[Bar]:
    """Processor time and peak memory of whole runs, and of adaptive rounding."""
    table = data / "images/nips2017/labels_and_attribution.csv"
    if not table.is_file():
        print(f"cost: skipped, {table} is not there")
        return []
    bars = []
    for scope, limit in _SECONDS.items():
        seconds, megabytes = _run(table, scope)
        bars.append(at_most(f"MobileNetV2, measure={scope}: processor time", seconds, limit, "s"))
        bars.append(_memory(scope, megabytes))
    minutes = _adaround_seconds(_data(table)) / 60
    return [*bars, at_most("MobileNetV2, adaptive rounding: processor time", minutes, _ADAROUND_MINUTES, "min")]


def _memory(scope: str, megabytes: float | None) -> Bar:
    name = f"MobileNetV2, measure={scope}: most memory"
    if scope == "quick":
        return at_most(name, megabytes, _QUICK_MB, "MB")
    return Bar(name, megabytes, "MB", "for information", None)


def _data(table: Path) -> CsvData:
    return CsvData(
        kind="csv",
        file=table,
        path_column="file",
        label_column="imagenet_class_0based",
        resize=256,
        calibration=128,
        validation=32,
        finetune=0,
    )


def _run(table: Path, scope: str) -> tuple[float, float] | tuple[None, None]:
    """Processor seconds and most megabytes of a run as anyone types it; None where it failed."""
    fields = _data(table).model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "compress", "target=raspberry_pi_4", "model=mobilenet_v2", "data=csv"),
            *(f"data.{name}={value}" for name, value in fields.items()),
            *("stage.ptq_static.observer=min_max", f"measure={scope}", f"output={folder}", "-q"),
        ]
        started = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(root)}, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        return None, None
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6  # Linux counts in KiB


def _adaround_seconds(data: CsvData) -> float:
    """Processor seconds of rounding all layers, on all threads."""
    images = CalibrationImages(load_splits(data, _SPEC).calibration, _BATCH)
    torch.manual_seed(0)
    graph = float_graph(mobilenet_v2(weights=None).eval(), _SPEC)
    prepared = prepare(graph, Recipe(load_policy("onnxruntime"), MinMax))
    set_mode(prepared, Mode.OBSERVE)
    calibrate(prepared, images())
    started = time.process_time()
    round_adaptively(prepared, images, AdaRoundOptions(), _Silent())
    return time.process_time() - started


class _Silent:
    """A progress that shows nothing."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        yield from items

    def log(self, message: str) -> None: ...


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0]).parse_args()
    report(cost_bars(options.data), options.json)
