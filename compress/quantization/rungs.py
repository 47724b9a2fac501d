"""The rungs of the accuracy ladder, cheapest first, on one model and its data."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import fx

from compress.core.artifact import Artifact
from compress.core.budget import Limits, Verdict
from compress.core.stage import Progress, Splits
from compress.quantization.fake_quant import FrozenBatchNorm, make_trainable, settle, start
from compress.quantization.ladder import Made, Rung, Settings
from compress.quantization.mixed_precision import Cost, choose_float_layers
from compress.quantization.observers.base import RangeObserver
from compress.quantization.observers.min_max import MinMax
from compress.quantization.placement import Recipe
from compress.quantization.ptq import convert
from compress.quantization.rung_names import RungName
from compress.quantization.sensitivity import SENSITIVITY_BATCHES, LayerSensitivity, measure_sensitivity
from compress.quantization.static import Calibrated, CalibrationImages, Equalize, quantize
from compress.training.augment import Augment
from compress.training.loop import train
from compress.training.masks import KeepZeros
from compress.training.options import TrainOptions
from compress.training.prepare import source_or
from compress.training.samples import Samples
from compress.training.shuffle import Shuffled
from compress.training.validate import validate_source

__all__ = ["Bench", "build_rungs"]

_VALIDATION_BATCH = 256


@dataclass(frozen=True)
class Bench:
    """Bench that the rungs work on.

    Attributes:
        graph: the `float_graph`; not changed.
        recipe: to start from.
        judge: gives the verdict on the validation split.
        images: that ranges are found on.
        single: why the graph is run image by image; None where it takes batches.
        search: the observer of the rung `range_search`.
        limits: of what may be lost.
        float_cost: what the rung `mixed_precision` pays for a layer in float.
        training: of the rung `qat`.
        training_batch: samples per step.
        folder: for the checkpoint of a training.
        source: the model as loaded, which the rung `qat` learns from and is told beside: `graph` may have lost
            something already.
    """

    graph: fx.GraphModule
    recipe: Recipe
    judge: Callable[[fx.GraphModule], Verdict]
    images: CalibrationImages
    single: str | None
    splits: Splits
    search: type[RangeObserver]
    limits: Limits
    float_cost: Cost
    training: TrainOptions
    training_batch: int
    seed: int
    folder: Path
    progress: Progress
    description: str
    source: Artifact | None = None

    def calibrated(self, settings: Settings, *, trainable: bool = False) -> Calibrated:
        """A fresh copy of the graph, quantized as `settings` say."""
        graph = copy.deepcopy(self.graph)
        if trainable:
            make_trainable(graph)
        return quantize(graph, settings.recipe, settings.recovery, self.images, self.progress)

    def made(self, settings: Settings) -> Made:
        """The same, converted."""
        calibrated = self.calibrated(settings)
        return Made(convert(calibrated.prepared), settings, calibrated.did)


def build_rungs(names: Sequence[RungName], bench: Bench) -> tuple[Rung, ...]:
    """The rungs with these names, in this order."""
    makers: dict[RungName, tuple[Callable[[Bench, Settings], Made], str | None]] = {
        "min_max": (_min_max, None),
        "range_search": (_range_search, None),
        "equalize_bias": (_equalize_bias, None),
        "rounding": (_rounding, None),
        "mixed_precision": (_mixed_precision, _all_integer(bench)),
        "qat": (_qat, _untrainable(bench)),
    }

    def rung(name: RungName) -> Rung:
        make, obstacle = makers[name]
        return Rung(name, lambda settings: make(bench, settings), obstacle)

    return tuple(rung(name) for name in names)


def _min_max(bench: Bench, settings: Settings) -> Made:
    return bench.made(replace(settings, recipe=replace(settings.recipe, activation_observer=MinMax)))


def _range_search(bench: Bench, settings: Settings) -> Made:
    return bench.made(replace(settings, recipe=replace(settings.recipe, activation_observer=bench.search)))


def _equalize_bias(bench: Bench, settings: Settings) -> Made:
    equalize: Equalize = "activations" if settings.recipe.per_channel else "weights"
    recovery = replace(settings.recovery, equalize=equalize, bias_correction=True)
    return bench.made(replace(settings, recovery=recovery))


def _rounding(bench: Bench, settings: Settings) -> Made:
    return bench.made(settings.with_rounding("adaptive"))


def _mixed_precision(bench: Bench, settings: Settings) -> Made:
    """Leave in float the layers that cost least and meet the budget.

    Sets of layers are tried with rounding to nearest, as adaptive rounding of each would take most of the time; the one
    chosen is rounded adaptively if that is among the settings, unless that breaks what was found without.
    """
    rows = _sensitivities(bench, settings)
    nearest = settings.with_rounding("nearest")

    def loss(names: frozenset[str]) -> float:
        if len(names) == len(rows):
            return math.inf  # that is the float network
        return bench.limits.excess(bench.judge(bench.made(_keeping(nearest, names)).graph))

    choice = choose_float_layers(rows, loss, allowed_loss=1e-9, cost=bench.float_cost)
    made = bench.made(_keeping(settings, choice.keep_float))
    if settings != nearest and choice.meets_budget and not bench.limits.met_by(bench.judge(made.graph)):
        made = bench.made(_keeping(nearest, choice.keep_float))
    names = f" ({', '.join(sorted(choice.keep_float))})" if choice.keep_float else ""
    step = f"left {len(choice.keep_float)} of {len(rows)} layers in float{names}: {choice.extra_bytes} bytes more"
    return replace(made, did=(step, *made.did))


def _sensitivities(bench: Bench, settings: Settings) -> tuple[LayerSensitivity, ...]:
    """Measure before any step that changes what the float network computes."""
    recovery = replace(settings.recovery, bias_correction=False, rounding="nearest")
    calibrated = bench.calibrated(replace(settings, recovery=recovery))
    shown = bench.images.shown(bench.progress, "layers alone in INT8", SENSITIVITY_BATCHES)
    return measure_sensitivity(calibrated.prepared, bench.graph, shown)


def _keeping(settings: Settings, names: frozenset[str]) -> Settings:
    kept = frozenset(settings.recipe.keep_float) | names
    return replace(settings, recipe=replace(settings.recipe, keep_float=kept))


def _qat(bench: Bench, settings: Settings) -> Made:
    """Train from the best settings, all weights free again: rounding to nearest is what training simulates."""
    settings = settings.with_rounding("nearest")
    calibrated = bench.calibrated(settings, trainable=True)
    start(calibrated.prepared)
    finetune, validation = Samples(bench.splits.finetune), Samples(bench.splits.validation)
    shuffled = Shuffled(finetune, size=bench.training_batch, seed=bench.seed, augment=Augment())
    checkpoint = bench.folder / "checkpoint.pt"
    result = train(
        calibrated.prepared,
        batches_of=shuffled,
        steps_per_epoch=len(shuffled),
        options=bench.training,
        seed=bench.seed,
        progress=bench.progress,
        validation=lambda: validation.batches(_VALIDATION_BATCH),
        source=validate_source(bench.source, validation.batches(_VALIDATION_BATCH)),
        teacher=source_or(bench.source, bench.graph),
        hooks=(FrozenBatchNorm(), KeepZeros(calibrated.prepared)),
        checkpoint=checkpoint,
        description=f"{bench.description} qat",
    )
    checkpoint.unlink(missing_ok=True)
    settle(calibrated.prepared)
    trained = f"trained on {result.device}, epoch {result.best + 1} of {len(result.epochs)} kept"
    return Made(convert(calibrated.prepared), settings, (*calibrated.did, trained))


def _all_integer(bench: Bench) -> str | None:
    policy = bench.recipe.policy
    return None if policy.unlisted is None else f"placement {policy.runtime!r} leaves nothing in float"


def _untrainable(bench: Bench) -> str | None:
    if not len(bench.splits.finetune):
        return "the fine-tuning split is empty (data.finetune=<number of images>)"
    return f"the model takes single images, training needs batches: {bench.single}" if bench.single else None
