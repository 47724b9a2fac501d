"""The methods that bench_quantization compares, each in a process of its own: this file is run as that process, too.

Their memory and seconds are then theirs alone, and a method whose package is missing fails by itself.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from bench_networks import QUIET, Decoded, Net, load, nets
from numpy.typing import NDArray
from torch import nn

from compress.core.artifact import Artifact
from compress.core.stage import Context, Splits
from compress.measure.memory import PeakMemory

FULL = "ours, full recovery"
OURS: dict[str, dict[str, object]] = {
    "ours, min-max": {"observer": "min_max"},
    "ours, MSE": {"observer": "mse"},
    "ours, percentile": {"observer": "percentile"},
    "ours, entropy": {"observer": "entropy"},
    "ours, MSE + bias correction": {"observer": "mse", "bias_correction": True},
}
PEERS = {"ORT MinMax": "MinMax", "ORT Percentile": "Percentile"}
PEER = "ORT MinMax"
SEARCH_PEER = "ORT Percentile"
NNCF = "NNCF"
# whose seconds, over whose, may be how much; peers in between, so that they are near in time to all they stand beside
COST_BARS = {
    "ours, MSE": (SEARCH_PEER, 0.5),
    "ours, percentile": (SEARCH_PEER, 0.5),
    "ours, entropy": (SEARCH_PEER, 0.5),
    "ours, min-max": (PEER, 2.0),
}
COMPARED = ("ours, MSE", "ours, percentile", SEARCH_PEER, "ours, entropy", "ours, min-max", PEER)
ROUNDS = 7


@dataclass(frozen=True)
class Made:
    """What making one file took."""

    seconds: float
    export_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Given:
    """What every method starts from."""

    net: Net
    source: Artifact
    splits: Splits
    images: NDArray[np.float32]

    @classmethod
    def of(cls, net: Net, data: Path) -> Given:
        source, lazy = load(net, data)
        calibration = Decoded.of(lazy.calibration, 128)
        return cls(net, source, replace(lazy, calibration=calibration), calibration.samples.images)

    def make(self, method: str, path: Path) -> float:
        """Make the method's INT8 file at `path` from the FP32 module; seconds that exporting took."""
        options = {**OURS, FULL: self.net.recovery}.get(method)
        if options is not None:
            return _make_ours(options, self.source, self.splits, path)
        return _make_peer(method, self.source, self.images, path)

    def warm_up(self, method: str, folder: Path) -> None:
        """Imports are not timed."""
        one_layer = replace(self.source, model=OneLayer(self.net.input.shape[0]).eval())
        replace(self, source=one_layer, images=self.images[:1]).make(method, folder / "one-layer.onnx")


def make(method: str, net: Net, data: Path, path: Path) -> Made:
    """Make the method's file, alone in this process."""
    given = Given.of(net, data)
    given.warm_up(method, path.parent)
    with PeakMemory() as memory:
        before = memory.peak_bytes
        started = time.perf_counter()
        export_seconds = given.make(method, path)
        seconds = time.perf_counter() - started
    return Made(seconds, export_seconds, memory.peak_bytes - before)


def take_turns(net: Net, data: Path, folder: Path) -> dict[str, list[float]]:
    """Seconds of each method that costs are compared of, round by round."""
    given, seconds = Given.of(net, data), dict[str, list[float]]()
    for method in COMPARED:
        given.warm_up(method, folder)
    gc.freeze()  # what was imported is not looked through again, at the cost of whoever happens to be next
    for _ in range(ROUNDS):
        for method in COMPARED:
            gc.collect()
            started = time.perf_counter()
            given.make(method, folder / "timed.onnx")
            seconds.setdefault(method, []).append(time.perf_counter() - started)
    return seconds


class OneLayer(nn.Module):
    """The least that needs every part of an exporter and a quantizer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


def stage_context(name: str, splits: Splits, folder: Path) -> Context:
    from compress.config.schema import load_target

    folder.mkdir(parents=True, exist_ok=True)
    return Context(name, load_target("raspberry_pi_4", []), splits, folder, 0, QUIET)


def _make_ours(options: dict[str, object], source: Artifact, splits: Splits, path: Path) -> float:
    from compress.stages.export.to_onnx import ToOnnx
    from compress.stages.quantize.ptq_static import PtqStatic

    quantized = PtqStatic.model_validate(options).run(source, stage_context("ptq", splits, path.parent))
    started = time.perf_counter()
    ToOnnx().run(quantized, stage_context(path.stem, splits, path.parent))
    return time.perf_counter() - started


def _make_peer(method: str, source: Artifact, images: NDArray[np.float32], path: Path) -> float:
    import onnx

    started = time.perf_counter()
    fp32 = path.with_name(f"{path.stem}-fp32.onnx")
    torch_export(source, fp32)
    export_seconds = time.perf_counter() - started
    if method == NNCF:
        import nncf

        dataset = nncf.Dataset([{"input": image[None]} for image in images])
        onnx.save(nncf.quantize(onnx.load(fp32), dataset, subset_size=len(images)), path)
    else:
        ort_quantize(fp32, path, images, PEERS[method])
    return export_seconds


def torch_export(source: Artifact, path: Path) -> None:
    """Write the FP32 ONNX file that peers start from."""
    with redirect_stdout(io.StringIO()):  # it announces its steps there
        torch.onnx.export(
            source.module.eval(),
            (torch.zeros(1, *source.input.shape),),
            path,
            input_names=["input"],
            external_data=False,
            dynamo=True,
        )


def ort_quantize(fp32: Path, path: Path, images: NDArray[np.float32], method: str) -> None:
    """Quantize with ONNX Runtime's own tool: QDQ, unsigned activations, signed weights per channel."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter([{"input": image[None]} for image in images])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.feeds, None)

    quantize_static(
        str(fp32),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
    )


def make_in_child(method: str, name: str, data: Path, path: Path) -> Made | None:
    """`make` in a fresh process; None when it fails (its last line is printed), as without the method's package."""
    printed = _in_child(name, data, path, "--make", method)
    return None if printed is None else Made(**json.loads(printed))


def seconds_in_child(name: str, data: Path, folder: Path) -> dict[str, list[float]]:
    """`take_turns` in a fresh process; empty when it fails."""
    printed = _in_child(name, data, folder)
    return {} if printed is None else json.loads(printed)


def _in_child(name: str, data: Path, path: Path, *task: str) -> str | None:
    command = [sys.executable, __file__, "--data", str(data), "--net", name, "--path", str(path), *task]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    if done.returncode != 0:
        print(f"{name}, {task[-1] if task else 'seconds'}: not measured: {done.stderr.strip().splitlines()[-1][:150]}")
        return None
    return done.stdout.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--net", required=True)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--make", help="make this method's file at the path")
    options = parser.parse_args()
    net = nets(options.data)[options.net]
    if options.make:
        print(json.dumps(make(options.make, net, options.data, options.path).__dict__))
    else:
        print(json.dumps(take_turns(net, options.data, options.path)))


if __name__ == "__main__":
    main()
