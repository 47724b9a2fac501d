"""Graph optimization: node counts against OnnxSlim and ONNX Runtime, paired latency, and equality.

    python scripts/bench_optimize.py [--json PATH] [--only resnet18 mobilenet_v2 mobilenet_v3_small] [--seconds 10]

Three files of each network, with random weights: FP32 and INT8 as this pipeline exports them (INT8: PtqStatic on a few
images), and FP32 as PyTorch's exporter writes it when nothing optimizes. Two counts of nodes are compared, because the
two peers write different things:

* `nodes` of the file, against OnnxSlim's output. Both consist of ONNX operators.
* `run`: nodes of the graph that a session of ONNX Runtime makes of the file at level extended, against those it makes
  of the file before optimization. That level fuses into com.microsoft operators (FusedConv, QLinearAdd), which no other
  runtime has, so its output is no alternative to the file; what counts is whether ours leaves it less to run.

Latency is that of the optimized file over the one before, at one thread, paired and interleaved over fresh sessions.
The bar holds where the ratio is at most 1 or its interval reaches down to 1; a file raced against itself is off as far.
Equality is judged on images that the stage has not seen, run as deployed and operator by operator.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
from bench_common import Bar, arguments, at_most, no_slower, report
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.measurement import LatencyRatio
from compress.core.stage import Batch, Context, Splits
from compress.optimize.choose import Bench
from compress.optimize.document import Optimization
from compress.optimize.equivalence import Equivalence
from compress.optimize.facts import graph_facts
from compress.optimize.passes import passes
from compress.report.progress import RichProgress
from compress.support.serialize import from_json

console = Console()
QUIET = RichProgress(Console(quiet=True))
NETWORKS = ("resnet18", "mobilenet_v2", "mobilenet_v3_small")
SPEC = InputSpec((3, 224, 224))
CALIBRATION_IMAGES = 4
UNSEEN_IMAGES = 8


class Noise:
    """Random images; the weights are random too, and what is compared are graphs."""

    name = "calibration"

    def __init__(self, count: int, seed: int) -> None:
        self.images = np.random.default_rng(seed).standard_normal((count, *SPEC.shape), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, size: int, *, order: Sequence[int] | None = None) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            images = self.images[start : start + size]
            yield Batch(images, np.zeros(len(images), np.int64))

    def digest(self) -> str:
        return ""


def context(name: str, folder: Path) -> Context:
    splits = cast("Splits", SimpleNamespace(calibration=Noise(CALIBRATION_IMAGES, 0)))
    return Context(name, load_target("raspberry_pi_4", []), splits, folder, 0, QUIET)


# --- the files --------------------------------------------------------------------------------------------------------


def files(network: str, folder: Path) -> dict[str, Artifact]:
    """The three files of a network."""
    import torch
    import torchvision

    from compress.stages.export.to_onnx import ToOnnx
    from compress.stages.prepare.fold_batchnorm import FoldBatchnorm
    from compress.stages.quantize.ptq_static import PtqStatic

    torch.manual_seed(0)
    source = Artifact(Format.TORCH, torchvision.models.get_model(network).eval(), Precision.FP32, SPEC)
    raw = _as_pytorch_writes_it(source, folder / f"{network}_raw.onnx")
    folded = FoldBatchnorm().run(source, context("fold", folder))
    quantized = PtqStatic().run(folded, context("ptq", folder))
    export = ToOnnx(parity_samples=2)
    return {
        "fp32": export.run(folded, context(f"{network}_fp32", folder)),
        "int8": export.run(quantized, context(f"{network}_int8", folder)),
        "fp32 raw": raw,
    }


def _as_pytorch_writes_it(source: Artifact, path: Path) -> Artifact:
    import torch

    from compress.support.quiet import quiet

    with quiet():
        torch.onnx.export(
            source.module,
            (torch.zeros(1, *SPEC.shape),),
            str(path),
            dynamo=True,
            optimize=False,
            external_data=False,
            verbose=False,
        )
    return Artifact(Format.ONNX, path, Precision.FP32, SPEC, dynamic_batch=False)


# --- one file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """One file before and after, and what OnnxSlim makes of it.

    Attributes:
        problem: how the result differs from the source on unseen images; None if it does not.
    """

    record: Optimization
    slim_nodes: int
    slim_run_nodes: int
    latency: LatencyRatio
    problem: str | None

    @property
    def failures(self) -> int:
        """Passes and files that computed something else."""
        wrong = sum(attempt.reason.startswith("it computes something else") for attempt in self.record.passes)
        return wrong + (self.problem is not None)


def compare(artifact: Artifact, folder: Path, seconds: float) -> Compared:
    from compress.stages.optimize.optimize_graph import OptimizeGraph

    made = OptimizeGraph(samples=CALIBRATION_IMAGES).run(artifact, context(f"{artifact.path.stem}_optimized", folder))
    slim = folder / f"{artifact.path.stem}_slim.onnx"
    onnx.save(passes(["onnxslim"], "aarch64")[0].run(onnx.load(artifact.path)), slim)
    slim_facts = graph_facts(slim)
    unseen: list[NDArray[np.float32]] = [Noise(UNSEEN_IMAGES, 1).images]
    equivalence = Equivalence(artifact, unseen, threads=1)
    return Compared(
        from_json(Optimization, made.attachments[0].read_bytes()),
        slim_facts.nodes,
        slim_facts.run_nodes,
        Bench(artifact, equivalence, seconds, {}).race(made.path, artifact.path),
        equivalence.prove(made.path, onnxruntime_only=False).problem,
    )


def bars(name: str, found: Compared) -> list[Bar]:
    record = found.record
    return [
        at_most(f"{name}: nodes more than OnnxSlim's", record.after.nodes - found.slim_nodes, 0, ""),
        at_most(f"{name}: nodes more than ORT extended runs", record.after.run_nodes - record.before.run_nodes, 0, ""),
        no_slower(f"{name}: latency", found.latency),
        at_most(f"{name}: equivalence failures", found.failures, 0, ""),
    ]


def show(rows: dict[str, Compared]) -> None:
    table = Table(
        "file", "nodes", "OnnxSlim", "run", "OnnxSlim run", "MiB", "peak MiB", "latency", "kept", title="graphs"
    )
    for name, found in rows.items():
        before, after = found.record.before, found.record.after
        peaks = [facts.peak_activation_bytes for facts in (before, after)]
        table.add_row(
            name,
            f"{before.nodes} -> {after.nodes}",
            str(found.slim_nodes),
            f"{before.run_nodes} -> {after.run_nodes}",
            str(found.slim_run_nodes),
            f"{before.size_bytes / 2**20:.2f} -> {after.size_bytes / 2**20:.2f}",
            " -> ".join("–" if peak is None else f"{peak / 2**20:.2f}" for peak in peaks),
            f"{found.latency.ratio:.3f} ({found.latency.low:.3f}–{found.latency.high:.3f})",
            ", ".join(attempt.name for attempt in found.record.passes if attempt.outcome == "kept") or "–",
        )
    console.print(table)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--seconds", type=float, default=10.0, help="longest time for one latency ratio")
    options = parser.parse_args()
    rows: dict[str, Compared] = {}
    with tempfile.TemporaryDirectory() as folder:
        for network in options.only:
            for variant, artifact in files(network, Path(folder)).items():
                rows[f"{network} {variant}"] = compare(artifact, Path(folder), options.seconds)
    show(rows)
    report([bar for name, found in rows.items() for bar in bars(name, found)], options.json)


if __name__ == "__main__":
    main()
