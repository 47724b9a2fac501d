"""INT8 post-training quantization against its peers: same model, same images in the same order, one run.

    python scripts/bench_quantization.py [--json PATH] [--data FOLDER] [--nets resnet20 resnet44 mobilenet_v1]

Every method makes its file in a process of its own: seconds from the module and decoded images to the written file, and
peak memory above what the process held before, both once the method has quantized a one-layer network, as PyTorch
imports most of its exporter at first use. Peers are timed from the module, too, which `torch.onnx.export` writes for
them: `s (export)` gives all seconds, and in brackets those of exporting to ONNX. Seconds are compared in one more
process, where the methods take turns: the median ratio of seven rounds. Then all files are judged here in ONNX
Runtime: agreement with FP32 and SQNR of the logits on the test images, convolutions left in float, size, and paired,
interleaved latency at one thread.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from bench_common import Bar, arguments, at_least, at_most, no_slower, report
from bench_methods import (
    COST_BARS,
    FULL,
    NNCF,
    OURS,
    PEER,
    PEERS,
    SEARCH_PEER,
    Made,
    make_in_child,
    seconds_in_child,
    stage_context,
)
from bench_networks import Net, load, nets
from rich.console import Console
from rich.table import Table

from compress.core.artifact import Artifact, Format, Precision
from compress.core.measurement import Fidelity, LatencyRatio
from compress.core.stage import Splits
from compress.formats import runtimes
from compress.formats.parity import FidelityMeter
from compress.measure.host import describe_host
from compress.measure.latency import one_sample, paired_latency
from compress.measure.race import race
from compress.quantization.fused import count_fused

console = Console(width=120)


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
    over_peer: LatencyRatio | None = None


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
        one_sample(net.input),
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

    context = stage_context("fp32", splits, folder)
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
        results[FULL] = replace(results[FULL], over_peer=race(ours, peer, threads=1, seconds=20))
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
    if ort and ours and full.over_peer:
        found += [
            at_least(f"{name} min-max SQNR over ORT MinMax", ours.fidelity.sqnr_db - ort.fidelity.sqnr_db, 0, "dB"),
            at_least(
                f"{name} min-max agreement over ORT",
                100 * (ours.fidelity.agreement - ort.fidelity.agreement),
                0,
                "points",
            ),
            no_slower(f"{name} latency over ORT MinMax's file", full.over_peer),
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
    options = parser.parse_args()
    data = options.data.resolve()
    known = nets(data)
    found: list[Bar] = []
    for name in options.nets:
        with tempfile.TemporaryDirectory() as folder:
            found += bars(name, bench(name, known[name], data, Path(folder)))
            found += cost_bars(name, seconds_in_child(name, data, Path(folder)))
    report(found, options.json)


if __name__ == "__main__":
    main()
