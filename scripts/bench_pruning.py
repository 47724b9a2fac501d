"""Pruning that makes the device faster: real training on CIFAR-10, structured pruning of many networks, 2:4.

    python scripts/bench_pruning.py --parts resnet44 resnet20 torchvision two_four --output FOLDER  # make and judge
    python scripts/bench_pruning.py --from FOLDER                                                    # judge again

Making trains on a CUDA GPU where there is one and writes ONNX files and `<part>.json` (what was made, with times) to
the folder. Judging reads them: accuracy of the exported files on the 500 test images in ONNX Runtime, zeros, gzip
sizes, and latency at one thread, paired and interleaved with the unpruned file. So training and timing may be on
different hosts.

`--variant` chooses how ResNet-44 loses half of its MACs; each is trained apart and the best one on the validation
images (never the test images) counts. `--engine-times FILE` adds TensorRT times measured elsewhere for the 2:4 files:
{"dense_ms": 1.0, "sparse_ms": 1.0, "engine": "H100, TensorRT 8.5.3, FP16, batch 32"}.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from bench_common import Bar, arguments, at_least, at_most, report
from bench_quantization import load, nets
from rich.console import Console
from rich.table import Table

from compress import runtimes
from compress.config import load_target
from compress.measure.host import describe_host
from compress.measure.latency import PairedLatency, paired_latency
from compress.measure.size import file_size
from compress.measure.sparsity import onnx_sparsity
from compress.stage import Context, Progress, Split, Splits, Stage
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.prepare.fold_batchnorm import FoldBatchnorm
from compress.stages.prune.depth import Depth
from compress.stages.prune.gradual import Gradual
from compress.stages.prune.semi_structured import SemiStructured
from compress.stages.prune.structured import Structured
from compress.stages.quantize.ptq_static import PtqStatic
from compress.stages.quantize.qat import Qat
from compress.stages.recover.finetune import Finetune
from compress.training.validate import validate
from compress.types import Artifact, Format, InputSpec, Precision

console = Console()
CIFAR, IMAGENET = InputSpec((3, 32, 32)), InputSpec((3, 224, 224))
TARGET = "raspberry_pi_5"
PARTS = ("resnet44", "resnet20", "torchvision", "two_four")
TORCHVISION = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "densenet121",
    "shufflenet_v2_x1_0",
    "googlenet",
    "vit_b_16",
)


class Lines(Progress):
    """Log lines with the time since the start, for a run that is watched through a file; every 20th epoch only."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def track(self, items, description, total=None):  # noqa: ANN001, ANN201 - as in the protocol
        yield from items

    def log(self, message: str) -> None:
        epoch = message.partition(": epoch ")[2].partition(" ")[0]
        if not epoch.isdigit() or int(epoch) % 20 == 0:
            print(f"[{time.perf_counter() - self._start:6.1f} s] {message}", flush=True)


@dataclass(frozen=True)
class Made:
    """Files of one part, relative to its folder, and the figures that only making them gives."""

    files: dict[str, str]
    figures: dict[str, float]


@dataclass(frozen=True)
class Effort:
    """How long to train, as a share of the epochs, and at what learning rate (None: the part's own)."""

    scale: float
    rate: float | None

    def of(self, stage: Stage) -> Stage:
        """The stage with its epochs scaled."""
        epochs = getattr(stage, "epochs", None)
        if epochs is None or self.scale == 1:
            return stage
        return stage.model_copy(update={"epochs": max(2, round(epochs * self.scale))})


@dataclass
class Workshop:
    """Runs stages one after the other on one network."""

    source: Artifact
    splits: Splits
    folder: Path
    progress: Progress

    def context(self, name: str, target: str = TARGET) -> Context:
        folder = self.folder / "stages" / name
        folder.mkdir(parents=True, exist_ok=True)
        return Context(name, load_target(target, []), self.splits, folder, 0, self.progress, self.source)

    def run(self, artifact: Artifact, stages: Sequence[tuple[str, Stage]]) -> Artifact:
        for name, stage in stages:
            artifact = stage.run(artifact, self.context(name))
        return artifact

    def export(self, artifact: Artifact, name: str, *, dynamic_batch: bool = False) -> str:
        """Write `<name>.onnx` into the folder."""
        if artifact.precision is Precision.FP32:
            artifact = FoldBatchnorm().run(artifact, self.context(f"{name}-fold"))
        made = ToOnnx(dynamic_batch=dynamic_batch).run(artifact, self.context(name))
        path = self.folder / f"{name}.onnx"
        path.write_bytes(made.path.read_bytes())
        return path.name

    def top1(self, artifact: Artifact, split: Split) -> float:
        return validate(artifact.module, split.batches(250)).top1


def training(epochs: int, rate: float, *, batch_size: int = 128) -> dict[str, object]:
    """What all trainings share: distillation from the unpruned network on mirrored, shifted and blended images.

    The rate is low on purpose: the network saw 50 000 images before, and at 0.05 and above the 3 700 here made it
    forget (ResNet-20: from 99 % to 85 % of the validation images in 20 epochs, before most of the pruning).
    """
    return {
        "epochs": epochs,
        "learning_rate": rate,
        "batch_size": batch_size,
        "distill": True,
        "flip": True,
        "shift": 4,
        "blend": 0.49,
        "ema": 0.998,
        "warmup_epochs": 1.0,
    }


def in_steps(rate: float) -> list[tuple[str, Stage]]:
    """Ten of nineteen residual branches, two at a time, with training between; some channels for the rest to 50 %."""
    stages: list[tuple[str, Stage]] = []
    for number, keep in enumerate((0.905, 0.895, 0.882, 0.866, 0.843)):
        stages.append((f"depth{number}", Depth(keep=keep)))
        if number < 4:
            stages.append((f"finetune{number}", Finetune.model_validate(training(25, rate))))
    stages.append(("structured", Structured(keep=0.5 / 0.515)))
    return [*stages, ("finetune", Finetune.model_validate(training(160, rate)))]


def channels_alone(rate: float) -> list[tuple[str, Stage]]:
    """What a filter pruner would do, for comparison: as many layers as before, each thinner."""
    cut = Structured(keep=0.5, scope="uniform")
    return [("structured", cut), ("finetune", Finetune.model_validate(training(220, rate)))]


VARIANTS: dict[str, Callable[[float], list[tuple[str, Stage]]]] = {"steps": in_steps, "channels": channels_alone}


# --- making -----------------------------------------------------------------------------------------------------------


def make_resnet44(data: Path, folder: Path, variant: str, effort: Effort) -> Made:
    shop = workshop("resnet44", data, folder)
    started = time.perf_counter()
    pruned = shop.run(
        shop.source, [(f"{variant}-{n}", effort.of(s)) for n, s in VARIANTS[variant](effort.rate or 0.03)]
    )
    seconds = time.perf_counter() - started
    torch.save(pruned.module.state_dict(), folder / f"{variant}.pt")
    quantized = PtqStatic(bias_correction=True).run(pruned, shop.context(f"{variant}-ptq"))
    qat = aware(effort).run(pruned, shop.context(f"{variant}-qat"))
    better = max((quantized, qat), key=lambda artifact: shop.top1(artifact, shop.splits.validation))
    files = {
        "dense": shop.export(shop.source, "dense"),
        "pruned": shop.export(pruned, variant),
        "pruned_int8": shop.export(better, f"{variant}-int8"),
    }
    figures = {
        "validation": shop.top1(pruned, shop.splits.validation),
        "macs": macs_of(pruned) / macs_of(shop.source),
        "train_seconds": seconds,
    }
    return Made(files, figures)


def make_resnet20(data: Path, folder: Path, effort: Effort) -> Made:
    shop = workshop("resnet20", data, folder)
    started = time.perf_counter()
    gradual = Gradual.model_validate(
        {**training(260, effort.rate or 0.02, batch_size=64), "amount": 0.8, "ramp": 0.5, "scope": "global"}
    )
    pruned = shop.run(shop.source, [("gradual", effort.of(gradual))])
    seconds = time.perf_counter() - started
    torch.save(pruned.module.state_dict(), folder / "pruned.pt")
    files = {
        "dense": shop.export(shop.source, "dense"),
        "dense_int8": shop.export(PtqStatic().run(shop.source, shop.context("dense-ptq")), "dense-int8"),
        "pruned": shop.export(pruned, "pruned"),
        "pruned_int8": shop.export(aware(effort).run(pruned, shop.context("qat")), "pruned-int8"),
    }
    return Made(files, {"validation": shop.top1(pruned, shop.splits.validation), "train_seconds": seconds})


def make_torchvision(folder: Path) -> Made:
    """Structured pruning to half of the MACs; a network that fails gets no figure."""
    files, figures = {}, {}
    for name in TORCHVISION:
        source = torchvision_network(name)
        shop = Workshop(source, NoiseSplits(), folder, Lines())
        pruned = Structured(keep=0.5).run(source, shop.context(name))
        figures[f"{name}.macs"] = macs_of(pruned) / macs_of(source)
        files[f"{name}.pruned"] = shop.export(pruned, f"{name}-pruned")
        console.print(f"{name}: {figures[f'{name}.macs']:.1%} of the MACs, exported with parity")
    return Made(files, figures)


def make_two_four(folder: Path) -> Made:
    """ResNet-50 with random weights, dense and 2:4, for any batch size."""
    source = torchvision_network("resnet50")
    shop = Workshop(source, NoiseSplits(), folder, Lines())
    pruned = SemiStructured().run(source, shop.context("two_four", "jetson_orin_nano"))
    files = {
        "dense": shop.export(source, "resnet50-dense", dynamic_batch=True),
        "sparse": shop.export(pruned, "resnet50-2to4", dynamic_batch=True),
    }
    return Made(files, {})


def aware(effort: Effort) -> Stage:
    """Quantization-aware training after the pruning; zeros stay."""
    options = {**training(5, 1e-4, batch_size=64), "warmup_epochs": 0.1, "clip_norm": 1.0, "ema": 0.0}
    return effort.of(Qat.model_validate(options))


def workshop(name: str, data: Path, folder: Path) -> Workshop:
    source, splits = load(nets(data)[name], data)
    return Workshop(source, splits, folder, Lines())


def torchvision_network(name: str) -> Artifact:
    from compress.models import TorchvisionModel, load_model

    config = TorchvisionModel.model_validate({"kind": "torchvision", "name": name, "input": {"shape": (3, 224, 224)}})
    return load_model(config, trusted=lambda _: False, seed=0, progress=Lines(), finetune=None)


def macs_of(artifact: Artifact) -> int:
    from compress.measure.macs import torch_macs

    image = np.zeros((1, *artifact.input.shape), np.float32)
    return torch_macs(runtimes.load(artifact, threads=1), image)


class NoiseSplits:
    """Random images, where only sizes and parity matter."""

    classes = ()

    def __init__(self) -> None:
        self.calibration = self.finetune = self.validation = self.evaluation = NoiseSplit()


class NoiseSplit:
    name = "noise"

    def __len__(self) -> int:
        return 8

    def batches(self, size, *, order=None):  # noqa: ANN001, ANN201 - as in the protocol
        from compress.stage import Batch

        images = np.random.default_rng(0).standard_normal((8, 3, 224, 224), dtype=np.float32)
        for start in range(0, 8, size):
            yield Batch(images[start : start + size], np.zeros(len(images[start : start + size]), np.int64))

    def digest(self) -> str:
        return "noise"


# --- judging ----------------------------------------------------------------------------------------------------------


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

    from compress.measure.pattern import onnx_pattern

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
        np.random.default_rng(0).standard_normal((1, *spec.shape), dtype=np.float32),
        runs=400,
        warmup=20,
        seconds=10,
        threads=1,
        device=describe_host().label,
    )


def read(path: Path) -> Made:
    return Made(**json.loads(path.read_text()))


def make(part: str, data: Path, folder: Path, variants: Sequence[str], effort: Effort) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], Made]] = {
        "resnet20": lambda: make_resnet20(data, folder, effort),
        "torchvision": lambda: make_torchvision(folder),
        "two_four": lambda: make_two_four(folder),
    }
    jobs = {part: makers[part]} if part in makers else {}
    for variant in variants if part == "resnet44" else ():
        jobs[f"resnet44-{variant}"] = lambda variant=variant: make_resnet44(data, folder, variant, effort)
    for name, job in jobs.items():
        started = time.perf_counter()
        made = job()
        (folder / f"{name}.json").write_text(json.dumps(asdict(made), indent=2) + "\n")
        console.print(f"{name}: made in {time.perf_counter() - started:.0f} s")


def judge(part: str, data: Path, folder: Path, engine_times: Path | None) -> list[Bar]:
    if part == "resnet44":
        return judge_resnet44(data, folder) if list(folder.glob("resnet44-*.json")) else []
    if not (folder / f"{part}.json").exists():
        return []
    if part == "resnet20":
        return judge_resnet20(data, folder)
    return judge_torchvision(folder) if part == "torchvision" else judge_two_four(folder, engine_times)


def main() -> None:
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--variant", nargs="+", choices=list(VARIANTS), default=["steps"], help="of ResNet-44")
    parser.add_argument("--output", type=Path, default=Path("bench_pruning"), help="folder for what is made")
    parser.add_argument("--from", dest="made", type=Path, help="judge what was made in this folder, make nothing")
    parser.add_argument("--make-only", action="store_true", help="leave judging for later")
    parser.add_argument("--engine-times", type=Path, help="JSON with TensorRT times of the 2:4 files")
    parser.add_argument("--rate", type=float, help="highest learning rate of the pruning's trainings")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the epochs, to try the bench out")
    options = parser.parse_args()
    data, found = options.data.resolve(), []
    for part in options.parts:
        folder = (options.made or options.output).resolve() / part
        if options.made is None:
            make(part, data, folder, options.variant, Effort(options.scale, options.rate))
        if not options.make_only:
            found += judge(part, data, folder, options.engine_times)
    if not options.make_only:
        console.print(f"latency on {describe_host().label}, 1 thread")
        report(found, options.json)


if __name__ == "__main__":
    main()
