"""INT8 post-training quantization against its peers: same model, same images in the same order, one run.

    python scripts/bench_quantization.py [--json PATH] [--data FOLDER] [--nets resnet20 resnet44 mobilenet_v1]

Every method makes its file in a process of its own: seconds from the module and decoded images to the written file, and
peak memory above what the process held before, both once the method has quantized a one-layer network, as PyTorch
imports most of its exporter at first use. Peers are timed from the module, too, which `torch.onnx.export` writes for
them: `s (export)` gives all seconds, and in brackets those of exporting to ONNX. Seconds are compared in one more
process, where the methods take turns: the median ratio of three rounds. Then all files are judged here in ONNX
Runtime: agreement with FP32 and SQNR of the logits on the test images, convolutions left in float, size, and paired,
interleaved latency at one thread.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from bench_common import Bar, arguments, at_least, at_most, report
from bench_networks import QUIET, Decoded, Net, load, nets
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from compress import runtimes
from compress.measure.host import describe_host
from compress.measure.latency import paired_latency
from compress.measure.memory import PeakMemory
from compress.measure.race import race
from compress.parity import FidelityMeter
from compress.quantization.fused import count_fused
from compress.stage import Context, Splits
from compress.types import Artifact, Fidelity, Format, Precision

console = Console(width=120)
FULL = "ours, full recovery"
OURS: dict[str, dict[str, object]] = {
    "ours, min-max": {"observer": "min_max"},
    "ours, MSE": {"observer": "histogram"},
    "ours, percentile": {"observer": "percentile"},
    "ours, entropy": {"observer": "entropy"},
    "ours, MSE + bias correction": {"observer": "histogram", "bias_correction": True},
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
ROUNDS = 3


# --- in a process of its own: one method, one file --------------------------------------------------------------------


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
    for _ in range(ROUNDS):
        for method in COMPARED:
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


def _context(name: str, splits: Splits, folder: Path) -> Context:
    from compress.config import load_target

    folder.mkdir(parents=True, exist_ok=True)
    return Context(name, load_target("raspberry_pi_4", []), splits, folder, 0, QUIET)


def _make_ours(options: dict[str, object], source: Artifact, splits: Splits, path: Path) -> float:
    from compress.stages.export.to_onnx import ToOnnx
    from compress.stages.quantize.ptq_static import PtqStatic

    quantized = PtqStatic.model_validate(options).run(source, _context("ptq", splits, path.parent))
    started = time.perf_counter()
    ToOnnx().run(quantized, _context(path.stem, splits, path.parent))
    return time.perf_counter() - started


def _make_peer(method: str, source: Artifact, images: NDArray[np.float32], path: Path) -> float:
    import onnx

    started = time.perf_counter()
    fp32 = path.with_name(f"{path.stem}-fp32.onnx")
    with redirect_stdout(io.StringIO()):  # it announces its steps there
        torch.onnx.export(
            source.module.eval(),
            (torch.zeros(1, *source.input.shape),),
            fp32,
            input_names=["input"],
            external_data=False,
            dynamo=True,
        )
    export_seconds = time.perf_counter() - started
    if method == NNCF:
        import nncf

        dataset = nncf.Dataset([{"input": image[None]} for image in images])
        onnx.save(nncf.quantize(onnx.load(fp32), dataset, subset_size=len(images)), path)
    else:
        _ort_quantize(fp32, path, images, PEERS[method])
    return export_seconds


def _ort_quantize(fp32: Path, path: Path, images: NDArray[np.float32], method: str) -> None:
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
    printed = _in_child(name, data, path, "--child", method)
    return None if printed is None else Made(**json.loads(printed))


def seconds_in_child(name: str, data: Path, folder: Path) -> dict[str, list[float]]:
    """`take_turns` in a fresh process; empty when it fails."""
    printed = _in_child(name, data, folder, "--turns")
    return {} if printed is None else json.loads(printed)


def _in_child(name: str, data: Path, path: Path, *task: str) -> str | None:
    command = [sys.executable, __file__, "--data", str(data), "--nets", name, "--file", str(path), *task]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    if done.returncode != 0:
        console.print(f"{name}, {task[-1]}: not measured: {done.stderr.strip().splitlines()[-1][:150]}")
        return None
    return done.stdout.splitlines()[-1]


# --- judging ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """One method on one network."""

    made: Made
    fidelity: Fidelity
    top1: float
    size_bytes: int
    convs_in_float: int
    ratio: float
    interval: tuple[float, float]
    over_peer: float | None = None


def onnx_artifact(path: Path, net: Net, precision: Precision) -> Artifact:
    return Artifact(Format.ONNX, path, precision, net.input, dynamic_batch=False)


def judge(path: Path, fp32: Path, net: Net, splits: Splits, made: Made) -> Judged:
    reference = runtimes.load(onnx_artifact(fp32, net, Precision.FP32), threads=2)
    candidate = runtimes.load(onnx_artifact(path, net, Precision.INT8), threads=2)
    meter, right, samples = FidelityMeter(), 0, 0
    for batch in splits.evaluation.batches(50):
        logits = candidate(batch.images)
        meter.update(reference(batch.images), logits)
        right += int((logits.argmax(1) == batch.labels).sum())
        samples += len(batch.labels)
    paired = paired_latency(
        runtimes.load(onnx_artifact(path, net, Precision.INT8), threads=1),
        runtimes.load(onnx_artifact(fp32, net, Precision.FP32), threads=1),
        np.random.default_rng(0).standard_normal((1, *net.input.shape), dtype=np.float32),
        runs=200,
        warmup=20,
        seconds=10,
        threads=1,
        device=describe_host().label,
    )
    return Judged(
        made,
        meter.result(),
        right / samples,
        path.stat().st_size,
        count_fused(path).float["Conv"],
        paired.ratio,
        (paired.low, paired.high),
    )


def fp32_file(source: Artifact, splits: Splits, folder: Path) -> Path:
    from compress.stages.export.to_onnx import ToOnnx
    from compress.stages.prepare.fold_batchnorm import FoldBatchnorm

    context = _context("fp32", splits, folder)
    return ToOnnx().run(FoldBatchnorm().run(source, context), context).path


def bench(name: str, net: Net, data: Path, folder: Path) -> dict[str, Judged]:
    source, splits = load(net, data)
    fp32 = fp32_file(source, splits, folder)
    results: dict[str, Judged] = {}
    files: dict[str, Path] = {}
    for number, method in enumerate([*OURS, FULL, *PEERS, NNCF]):
        path = folder / f"method{number}.onnx"
        made = make_in_child(method, name, data, path)
        if made is not None:
            files[method] = path
            results[method] = judge(path, fp32, net, splits, made)
    if FULL in files and PEER in files:
        ours = onnx_artifact(files[FULL], net, Precision.INT8)
        peer = onnx_artifact(files[PEER], net, Precision.INT8)
        results[FULL] = replace(results[FULL], over_peer=race(ours, peer, threads=1, seconds=20).ratio)
    show(name, results, len(splits.evaluation))
    return results


def show(name: str, results: dict[str, Judged], samples: int) -> None:
    columns = ("method", "agree %", "SQNR dB", "top-1 %", "KiB", "float convs", "INT8:FP32 (95 %)", "s (export)", "MiB")
    table = Table(*columns, title=f"{name}: 128 calibration images, {samples} test images")
    for method, row in results.items():
        table.add_row(
            method,
            f"{100 * row.fidelity.agreement:.1f}",
            f"{row.fidelity.sqnr_db:.2f}",
            f"{100 * row.top1:.1f}",
            f"{row.size_bytes / 1024:.0f}",
            str(row.convs_in_float),
            f"{row.ratio:.2f} ({row.interval[0]:.2f} to {row.interval[1]:.2f})",
            f"{row.made.seconds:.1f} ({row.made.export_seconds:.1f})",
            f"{row.made.peak_bytes / 2**20:.0f}",
        )
    console.print(table)


# --- bars -------------------------------------------------------------------------------------------------------------


def best(results: dict[str, Judged], names: object, key: str) -> float | None:
    rows = [results[name] for name in names if name in results]
    return max((getattr(row.fidelity, key) for row in rows), default=None)


def bars(name: str, results: dict[str, Judged]) -> list[Bar]:
    full = results.get(FULL)
    if full is None:
        return []
    found = [
        at_least(
            f"{name} agreement, full recovery", 100 * full.fidelity.agreement, 92.5 if "mob" in name else 99.4, "%"
        ),
        *sqnr_bars(name, full, results),
        at_most(f"{name} convolutions left in float", full.convs_in_float, 0, ""),
    ]
    ort, ours = results.get(PEER), results.get("ours, min-max")
    if ort and ours:
        found += [
            at_least(f"{name} min-max SQNR over ORT MinMax", ours.fidelity.sqnr_db - ort.fidelity.sqnr_db, 0, "dB"),
            at_least(
                f"{name} min-max agreement over ORT",
                100 * (ours.fidelity.agreement - ort.fidelity.agreement),
                0,
                "points",
            ),
            at_most(f"{name} latency over ORT MinMax's file", full.over_peer, 1.0, "x"),
            at_most(f"{name} size over ORT's", full.size_bytes / ort.size_bytes, 1.0, "x"),
        ]
    return found + memory_bars(name, results)


def sqnr_bars(name: str, full: Judged, results: dict[str, Judged]) -> list[Bar]:
    if name == "resnet44":
        peers = best(results, PEERS, "sqnr_db")
        gain = None if peers is None else full.fidelity.sqnr_db - peers
        return [at_least(f"{name} SQNR over ORT's best", gain, 1.5, "dB")]
    return [at_least(f"{name} SQNR, full recovery", full.fidelity.sqnr_db, 24.5 if "mob" in name else 31, "dB")]


def memory_bars(name: str, results: dict[str, Judged]) -> list[Bar]:
    peer = results.get(SEARCH_PEER)
    return [
        at_most(
            f"{name} {method} RSS over {SEARCH_PEER}",
            results[method].made.peak_bytes / max(peer.made.peak_bytes, 1),
            0.3,
            "x",
        )
        for method, (other, _) in COST_BARS.items()
        if peer and other == SEARCH_PEER and method in results
    ]


def cost_bars(name: str, seconds: dict[str, list[float]]) -> list[Bar]:
    """Ratios of neighbours in time: the clocks of shared machines change from one minute to the next."""
    found = []
    for method, (peer, bar) in COST_BARS.items():
        if seconds:
            ratios = [ours / its for ours, its in zip(seconds[method], seconds[peer], strict=True)]
            console.print(
                f"{name} {method} over {peer}, round by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}"
            )
            found.append(at_most(f"{name} {method} seconds over {peer}", statistics.median(ratios), bar, "x"))
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["resnet20", "resnet44", "mobilenet_v1"])
    parser.add_argument("--child", help="make one method's file in this process (used by the bench itself)")
    parser.add_argument("--turns", action="store_true", help="time methods in turn in this process (likewise)")
    parser.add_argument("--file", type=Path)
    options = parser.parse_args()
    data = options.data.resolve()
    known = nets(data)
    if options.child:
        print(json.dumps(make(options.child, known[options.nets[0]], data, options.file).__dict__))
        return
    if options.turns:
        print(json.dumps(take_turns(known[options.nets[0]], data, options.file)))
        return
    found: list[Bar] = []
    for name in options.nets:
        with tempfile.TemporaryDirectory() as folder:
            found += bars(name, bench(name, known[name], data, Path(folder)))
            found += cost_bars(name, seconds_in_child(name, data, Path(folder)))
    report(found, options.json)


if __name__ == "__main__":
    main()
