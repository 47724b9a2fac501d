"""Hold what was made against the bars: accuracy of the files, zeros, sizes and paired latency."""

from __future__ import annotations

import json
from pathlib import Path

from bench_common import Bar, at_least, at_most
from bench_networks import load, nets
from rich.table import Table

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.stage import Split
from compress.formats import runtimes
from compress.formats.onnx.weights import onnx_sparsity
from compress.formats.size import file_size
from compress.measure.host import describe_host
from compress.measure.latency import PairedLatency, one_sample, paired_latency
from pruning_bench.workshop import (
    CIFAR,
    TORCHVISION,
    console,
    read,
)


def judge(part: str, data: Path, folder: Path, engine_times: Path | None) -> list[Bar]:
    if part == "resnet44":
        return judge_resnet44(data, folder) if list(folder.glob("resnet44-*.json")) else []
    if not (folder / f"{part}.json").exists():
        return []
    if part == "resnet20":
        return judge_resnet20(data, folder)
    return judge_torchvision(folder) if part == "torchvision" else judge_two_four(folder, engine_times)


def judge_resnet44(data: Path, folder: Path) -> list[Bar]:
    made = {path.stem.removeprefix("resnet44-"): read(path) for path in sorted(folder.glob("resnet44-*.json"))}
    splits = load(nets(data)["resnet44"], data)[1]
    table = Table(
        "variant", "MACs %", "validation %", "test %", "INT8 test %", "latency ratio (95 %)", "INT8 ratio", "s"
    )
    rows: dict[str, tuple[float, float, PairedLatency]] = {}
    for variant, files in made.items():
        dense, pruned, int8 = (folder / files.files[name] for name in ("dense", "pruned", "pruned_int8"))
        times, int8_times = paired(pruned, dense, CIFAR), paired(int8, dense, CIFAR, Precision.INT8)
        rows[variant] = top1(pruned, splits.evaluation), top1(int8, splits.evaluation, Precision.INT8), times
        figures = files.figures
        table.add_row(
            variant,
            f"{100 * figures['macs']:.1f}",
            f"{100 * figures['validation']:.1f}",
            f"{100 * rows[variant][0]:.1f}",
            f"{100 * rows[variant][1]:.1f}",
            f"{times.ratio:.3f} ({times.low:.3f} to {times.high:.3f})",
            f"{int8_times.ratio:.3f}",
            f"{figures['train_seconds']:.0f}",
        )
    console.print(table)
    within = [v for v, row in rows.items() if row[2].ratio <= 0.62] or list(rows)
    best = max(within, key=lambda v: made[v].figures["validation"])
    fp32, int8_top1, times = rows[best]
    return [
        at_most(f"ResNet-44 {best}: MACs left", 100 * made[best].figures["macs"], 50, "%"),
        at_least(f"ResNet-44 {best}: top-1 on 500 test images", 100 * fp32, 91.5, "%"),
        at_most(f"ResNet-44 {best}: latency, pruned over dense", times.ratio, 0.62, "x"),
        at_most(f"ResNet-44 {best}: drop to INT8", 100 * (fp32 - int8_top1), 0.5, "points"),
    ]


def judge_resnet20(data: Path, folder: Path) -> list[Bar]:
    made = read(folder / "resnet20.json")
    splits = load(nets(data)["resnet20"], data)[1]
    dense_int8, pruned, int8 = (folder / made.files[name] for name in ("dense_int8", "pruned", "pruned_int8"))
    import onnx

    zeros = onnx_sparsity(onnx.load(int8)).fraction
    gzipped, dense_gzipped = file_size([int8]).gzip_bytes, file_size([dense_int8]).gzip_bytes
    console.print(f"ResNet-20: INT8 {int8.stat().st_size} bytes, gzip {gzipped}; dense INT8 gzip {dense_gzipped}")
    return [
        at_least("ResNet-20 80 %: top-1 FP32", 100 * top1(pruned, splits.evaluation), 91.5, "%"),
        at_least("ResNet-20 80 %: top-1 INT8", 100 * top1(int8, splits.evaluation, Precision.INT8), 91.5, "%"),
        at_least("ResNet-20 80 %: zeros in the INT8 file", 100 * zeros, 80, "%"),
        at_most("ResNet-20 80 %: gzip over dense INT8 gzip", 100 * gzipped / dense_gzipped, 45, "%"),
    ]


def judge_torchvision(folder: Path) -> list[Bar]:
    figures = read(folder / "torchvision.json").figures
    off = {name: abs(figures[f"{name}.macs"] / 0.5 - 1) for name in TORCHVISION if f"{name}.macs" in figures}
    worst = max(off, key=lambda name: off[name])
    return [
        at_least("torchvision networks cut, run and exported", len(off), len(TORCHVISION), ""),
        at_most(f"MACs off the asked 50 %, worst ({worst})", 100 * off[worst], 3, "%"),
    ]


def judge_two_four(folder: Path, engine_times: Path | None) -> list[Bar]:
    import onnx

    from compress.formats.onnx.pattern import onnx_pattern

    found = onnx_pattern(onnx.load(folder / read(folder / "two_four.json").files["sparse"]), 2, 4)
    bars = [
        at_least("ResNet-50: convolutions and linear layers that follow 2:4", found.following, found.layers - 1, "")
    ]
    if engine_times is not None:
        times = json.loads(engine_times.read_text())
        ratio = times["sparse_ms"] / times["dense_ms"]
        bars.append(Bar(f"ResNet-50 SPARSE_WEIGHTS over dense, {times['engine']}", ratio, "x", "report", None))
    return bars


def top1(path: Path, split: Split, precision: Precision = Precision.FP32) -> float:
    run = runtimes.load(Artifact(Format.ONNX, path, precision, CIFAR, False), threads=1)
    right = [int((run(batch.images).argmax(1) == batch.labels).sum()) for batch in split.batches(50)]
    return sum(right) / len(split)


def paired(path: Path, other: Path, spec: InputSpec, precision: Precision = Precision.FP32) -> PairedLatency:
    return paired_latency(
        runtimes.load(Artifact(Format.ONNX, path, precision, spec, False), threads=1),
        runtimes.load(Artifact(Format.ONNX, other, Precision.FP32, spec, False), threads=1),
        one_sample(spec),
        runs=400,
        warmup=20,
        seconds=10,
        threads=1,
        device=describe_host().label,
    )
