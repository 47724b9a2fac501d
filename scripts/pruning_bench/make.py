"""Prune, train and export the networks of the bench, on a CUDA GPU where there is one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from bench_networks import load, nets

from compress.core.artifact import Artifact
from compress.core.stage import Stage
from compress.formats import runtimes
from compress.stages.prune.depth import Depth
from compress.stages.prune.gradual import Gradual
from compress.stages.prune.semi_structured import SemiStructured
from compress.stages.prune.structured import Structured
from compress.stages.quantize.ptq_static import PtqStatic
from compress.stages.quantize.qat import Qat
from compress.stages.recover.finetune import Finetune
from pruning_bench.workshop import TORCHVISION, Effort, Lines, Made, NoiseSplits, Workshop, console


def training(epochs: int, rate: float, *, batch_size: int = 128) -> dict[str, object]:
    """What all trainings share: distillation from the unpruned network on mirrored, shifted and blended images.

    The rate is low on purpose: the network saw 50 000 images before, and without hints 0.05 and above made it forget
    on the 3 700 here (ResNet-20: from 99 % to 85 % of the validation images in 20 epochs, before most of the pruning).
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


def hinted(epochs: int, rate: float) -> Stage:
    """Fine-tuning towards the unpruned network's scores and the outputs of its three stages; the last epoch is kept.

    The checkpoint was trained on the validation images, too, so that the first epochs look best on them.
    """
    hints = {"alpha": 1.0, "hints": ["layer1", "layer2", "layer3"], "hint_weight": 3.0, "keep": "last"}
    return Finetune.model_validate({**training(epochs, rate), **hints})


def in_steps(rate: float) -> list[tuple[str, Stage]]:
    """Ten of nineteen residual branches, two at a time, with training between; some channels for the rest to 50 %."""
    stages: list[tuple[str, Stage]] = []
    for number, keep in enumerate((0.905, 0.895, 0.882, 0.866, 0.843)):
        stages.append((f"depth{number}", Depth(keep=keep)))
        if number < 4:
            stages.append((f"finetune{number}", hinted(25, rate)))
    stages.append(("structured", Structured(keep=0.5 / 0.515)))
    return [*stages, ("finetune", hinted(190, rate))]


def channels_alone(rate: float) -> list[tuple[str, Stage]]:
    """What a filter pruner would do, for comparison: as many layers as before, each thinner."""
    cut = Structured(keep=0.5, scope="uniform")
    return [("structured", cut), ("finetune", Finetune.model_validate(training(220, rate)))]


VARIANTS: dict[str, Callable[[float], list[tuple[str, Stage]]]] = {"steps": in_steps, "channels": channels_alone}


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


def make_resnet44(data: Path, folder: Path, variant: str, effort: Effort) -> Made:
    shop = workshop("resnet44", data, folder)
    started = time.perf_counter()
    pruned = shop.run(
        shop.source, [(f"{variant}-{n}", effort.of(s)) for n, s in VARIANTS[variant](effort.rate or 0.05)]
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
    from compress.formats.torch.macs import torch_macs

    image = np.zeros((1, *artifact.input.shape), np.float32)
    return torch_macs(runtimes.load(artifact, threads=1), image)
