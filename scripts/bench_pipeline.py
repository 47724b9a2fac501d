"""Seconds and peak memory of every stage, and INT8 against FP32 latency, on ResNet-20 (CIFAR-10) and MobileNetV2.

    python scripts/bench_pipeline.py [--json PATH] [--data FOLDER]

Each pipeline runs in a process of its own, so that memory is that of the pipeline alone. Latency is a paired,
interleaved ratio in ONNX Runtime at one thread: the two files take turns in one process, so drift hits both alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bench_common import Bar, arguments, at_least, at_most, report
from rich.console import Console
from rich.table import Table

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.formats import runtimes
from compress.measure.host import describe_host
from compress.measure.latency import one_sample, paired_latency

console = Console()


@dataclass(frozen=True)
class Network:
    """A network with its data, as overrides of the command line."""

    name: str
    overrides: tuple[str, ...]
    input: InputSpec


def networks(data: Path) -> list[Network]:
    return [
        Network(
            "ResNet-20",
            (
                "model=factory",
                "model.factory=nets:resnet20",
                f"model.checkpoint={data}/weights/resnet20-12fca82f.th",
                "model.input.shape=[3,32,32]",
                "data=image_folder",
                f"data.train={data}/images/cifar10_train4000",
                f"data.test={data}/images/cifar10_test500",
            ),
            InputSpec((3, 32, 32)),
        ),
        Network(
            "MobileNetV2",
            (
                "model=mobilenet_v2",
                "data=csv",
                f"data.file={data}/images/nips2017/labels_and_attribution.csv",
                "data.path_column=file",
                "data.label_column=imagenet_class_0based",
                "data.resize=256",
            ),
            InputSpec((3, 224, 224)),
        ),
    ]


def compress(network: Network, data: Path, output: Path, *overrides: str) -> tuple[dict[str, dict], Path, float]:
    """Run the real command; its measurements by stage, the run folder, and wall seconds."""
    command = [sys.executable, "-m", "compress", "target=raspberry_pi_4", "~stage.magnitude", *network.overrides]
    started = time.perf_counter()
    subprocess.run(
        [*command, f"output={output}", *overrides],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(data)},
    )
    seconds = time.perf_counter() - started
    run = max(path for path in output.glob("raspberry_pi_4/[!.]*"))
    rows = json.loads((run / "report.json").read_text())["measurements"]
    return {row["stage"]: row for row in rows}, run, seconds


def show_stages(network: Network, rows: dict[str, dict]) -> None:
    table = Table("stage", "seconds", "peak RSS, MiB", title=f"{network.name}: what each stage takes")
    for stage, row in rows.items():
        if row["seconds"] is not None:
            table.add_row(stage, f"{row['seconds']:.2f}", f"{row['peak_rss_bytes'] / 2**20:.0f}")
    console.print(table)


def latency_ratio(network: Network, int8: Path, fp32: Path) -> Bar:
    def load(path: Path, precision: Precision) -> runtimes.Runner:
        return runtimes.load(Artifact(Format.ONNX, path, precision, network.input, False), threads=1)

    image = one_sample(network.input)
    paired = paired_latency(
        load(int8, Precision.INT8),
        load(fp32, Precision.FP32),
        image,
        runs=300,
        warmup=20,
        seconds=60,
        threads=1,
        device=describe_host().label,
    )
    console.print(
        f"{network.name}: INT8 {paired.first.median_ms:.3f} ms, FP32 {paired.second.median_ms:.3f} ms, "
        f"ratio {paired.ratio:.3f} (95 % interval {paired.low:.3f} to {paired.high:.3f}, n = {paired.pairs} pairs), "
        f"host {paired.first.device}, ONNX Runtime, 1 thread"
    )
    return at_most(f"{network.name} INT8/FP32 latency", paired.ratio, 1.0, "x")


def accuracy_bars(rows: dict[str, dict], fp32_bytes: int) -> list[Bar]:
    source, final = rows["source"], rows["to_onnx"]
    return [
        at_most(
            "ResNet-20 top-1 lost to INT8",
            100 * (source["accuracy"]["top1"] - final["accuracy"]["top1"]),
            0.6,
            "points",
        ),
        at_least("ResNet-20 INT8 agreement with FP32", 100 * final["fidelity"]["agreement"], 97, "%"),
        at_most("ResNet-20 INT8 file of FP32 file", 100 * final["size_bytes"] / fp32_bytes, 32, "%"),
    ]


def calibration_memory(network: Network, data: Path, output: Path) -> Bar:
    """Peak memory of calibrating 512 images against 32, each in a process of its own."""
    peaks = {}
    for images in (32, 512):
        rows, _, _ = compress(network, data, output / str(images), f"data.calibration={images}", "precision=int8")
        peaks[images] = rows["ptq_static"]["peak_rss_bytes"]
    return at_most("peak RSS calibrating 512 images / 32 images", peaks[512] / peaks[32], 1.2, "x")


def help_seconds() -> Bar:
    """Median of 5 starts of `--help`."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "compress", "--help"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - started)
    return at_most("python -m compress --help", float(np.median(times)), 1.5, "s")


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    options = parser.parse_args()
    bars = [help_seconds()]
    with tempfile.TemporaryDirectory() as folder:
        for network in networks(options.data.resolve()):
            output = Path(folder) / network.name
            rows, int8, first = compress(network, options.data, output / "int8")
            fp32_rows, fp32, _ = compress(network, options.data, output / "fp32", "precision=fp32")
            show_stages(network, rows)
            bars.append(latency_ratio(network, int8 / "to_onnx.onnx", fp32 / "to_onnx.onnx"))
            if network.name == "ResNet-20":
                bars += accuracy_bars(rows, fp32_rows["to_onnx"]["size_bytes"])
                bars.append(calibration_memory(network, options.data, output))
                *_, again = compress(network, options.data, output / "int8")
                console.print(f"{network.name}: first run {first:.1f} s, a second identical run {again:.1f} s")
                bars.append(at_most(f"{network.name} second identical run", again, max(8.0, 0.1 * first), "s"))
    report(bars, options.json)


if __name__ == "__main__":
    main()
