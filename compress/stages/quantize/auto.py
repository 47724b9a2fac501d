"""Static INT8 with no more effort than an accuracy budget needs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from compress.core.artifact import Artifact, Format, Precision
from compress.core.budget import BudgetMissed
from compress.core.errors import Refusal, StageError
from compress.core.stage import Context
from compress.core.target import Target
from compress.quantization.options import StaticOptions, log_float_layers, single_image_reason
from compress.quantization.rung_names import RUNGS, RungName
from compress.training.options import Device, TrainOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import fx, nn

    from compress.core.budget import Verdict
    from compress.quantization.ladder import Climb, RungRecord
    from compress.quantization.mixed_precision import Cost
    from compress.quantization.rungs import Bench

__all__ = ["Auto", "Budget", "BudgetMissed"]

_MISSED = "missed_budget"
_RECORDS = "rungs.json"
_DROP = 0.5
"""Points of top-1 where neither the stage nor the run has a budget."""

_COMPARED = (Precision.FP32, Precision.INT8)  # arithmetic of a layer left in float, and of one that is not


class Budget(BaseModel):
    """Budget of what quantization may cost.

    Attributes:
        top1_drop: loss of top-1 against the source on validation images, in percentage points; 0 allows none; None
            takes the budget of the run.
        sqnr_db: that the logits keep there, too: top-1 alone says little on few images; None for any noise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top1_drop: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    sqnr_db: Annotated[float, Field(allow_inf_nan=False)] | None = None


class Auto(StaticOptions):
    """Climb an accuracy ladder and stop at the first rung within the budget.

    Every rung is judged on validation images against the source, image by image; the test split decides nothing.
    A rung adds its step to the best settings met below it. `qat` also chooses its best epoch on the validation split.

    Attributes:
        observer: of the rung `range_search`.
        budget: what may be lost.
        rungs: those to try, cheapest first.
        mixed_cost: what the rung `mixed_precision` saves on layers left in float: `bytes` of the file, or estimated
            `milliseconds` on the target.
        batch_size: calibration images at a time.
        on_miss: when no rung meets a budget of the stage's own, `fail` (the best result is kept beside its files) or
            `keep` the best result and go on. Where the budget of the run is missed the best result is delivered,
            labelled, and the run ends with exit code 1.
        epochs: of `qat`.
        learning_rate: of `qat`, the highest; cosine decay from it.
        training_batch: samples per step of `qat`.
        device: `qat` trains on; `auto` takes a CUDA GPU where there is one.
    """

    data_used: ClassVar[tuple[str, ...]] = ("calibration", "validation", "finetune")
    held: ClassVar[bool] = True

    budget: Budget = Budget()
    rungs: Annotated[tuple[RungName, ...], Field(min_length=1)] = RUNGS
    mixed_cost: Literal["bytes", "milliseconds"] = "bytes"
    batch_size: Annotated[int, Field(ge=1)] = 32
    on_miss: Literal["fail", "keep"] = "fail"
    epochs: Annotated[int, Field(ge=1)] = 5
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.001
    training_batch: Annotated[int, Field(ge=1)] = 64
    device: Device = "auto"

    @field_validator("rungs")
    @classmethod
    def _in_order(cls, value: tuple[RungName, ...]) -> tuple[RungName, ...]:
        ordered = tuple(rung for rung in RUNGS if rung in value)
        if value != ordered:
            raise ValueError(f"each rung once, cheapest first: [{', '.join(ordered)}]")
        return value

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Besides what every static stage refuses: milliseconds of a target whose peaks are not known."""
        super().requires(target, precision, name)
        if self.mixed_cost == "milliseconds" and None in (target.peak_flops.get(p) for p in _COMPARED):
            raise Refusal(
                f"stage {name!r}: the fp32 and int8 peaks of {target.title} are not both known, so milliseconds cannot "
                "be estimated",
                fix=f"stage.{name}.mixed_cost=bytes",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Calibrate on `splits.calibration`, train on `splits.finetune`, judge on `splits.validation`.

        Raises:
            BudgetMissed: no rung is within the stage's own budget, and `on_miss` is `fail`.
            StageError: no calibration or validation images, or NaN or infinity (names the layer).
            ModelError: the module cannot be captured.
        """
        import torch

        from compress.support.files import write_bytes
        from compress.support.serialize import to_json

        torch.manual_seed(context.seed)
        graph = self.float_graph(artifact, context)
        single = single_image_reason(graph, artifact)
        bench = self._bench(graph, artifact, single, context)
        notes = log_float_layers(graph, bench.recipe, context)
        climb = self._climb(bench, context)
        write_bytes(context.folder / _RECORDS, to_json(climb.records))
        of_the_run = context.judge is not None and self.budget == Budget()
        if climb.best is None or (not climb.within_budget and self.on_miss == "fail" and not of_the_run):
            raise self._missed(climb, artifact, context)
        if not climb.within_budget:
            context.progress.log(f"{context.name}: kept although {self._shortfall(climb, context)}")
        return artifact.after(
            context.name,
            climb.best.graph,
            format=Format.TORCH,
            precision=Precision.INT8,
            dynamic_batch=single is None,
            notes={**notes, **self._notes(climb, context)},
        )

    def _climb(self, bench: Bench, context: Context) -> Climb:
        from compress.quantization.ladder import Settings, climb
        from compress.quantization.rungs import build_rungs
        from compress.quantization.static import Recovery

        self._log_resolution(context)
        start = Settings(bench.recipe, Recovery())
        rungs = build_rungs(self.rungs, bench)
        return climb(rungs, start, bench.judge, bench.limits, context.progress, context.name)

    def _bench(self, graph: fx.GraphModule, artifact: Artifact, single: str | None, context: Context) -> Bench:
        from compress.core.budget import Limits
        from compress.quantization.observers import load_observer
        from compress.quantization.observers.min_max import MinMax
        from compress.quantization.rungs import Bench
        from compress.quantization.static import CalibrationImages

        exact = replace(artifact, model=graph, format=Format.TORCH, dynamic_batch=single is None)
        return Bench(
            graph=graph,
            recipe=replace(self.recipe(context), activation_observer=MinMax),
            judge=self._judge(exact, context),
            images=CalibrationImages(context.splits.calibration, 1 if single else artifact.fitting(self.batch_size)),
            single=single,
            splits=context.splits,
            search=load_observer(self.observer),
            limits=Limits(self._drop(context), self.budget.sqnr_db),
            float_cost=self._float_cost(context.target),
            training=self._training(),
            training_batch=self.training_batch,
            seed=context.seed,
            folder=context.folder,
            progress=context.progress,
            description=context.name,
            source=context.source,
        )

    def _judge(self, exact: Artifact, context: Context) -> Callable[[nn.Module], Verdict]:
        """Compares with the source of the run; with the float graph where the stage runs by itself."""
        if not len(context.splits.validation):
            raise StageError(
                "the validation split is empty: nothing to hold the accuracy budget against",
                fix="data.validation=<number of images>",
            )
        from compress.core.budget import Budget as RunBudget
        from compress.verify.judge import Judge

        judge = context.judge or Judge(context.source or exact, context.splits, RunBudget())
        return lambda module: judge(replace(exact, model=module))

    def _drop(self, context: Context) -> float:
        if self.budget.top1_drop is not None:
            return self.budget.top1_drop
        of_the_run = context.judge.budget.drop if context.judge else None
        return _DROP if of_the_run is None else of_the_run

    def _float_cost(self, target: Target) -> Cost:
        from compress.quantization.mixed_precision import ExtraMilliseconds, extra_bytes

        return extra_bytes if self.mixed_cost == "bytes" else ExtraMilliseconds.on(target)

    def _training(self) -> TrainOptions:
        return TrainOptions(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            warmup_epochs=min(0.1, self.epochs / 2),
            device=self.device,
            mixed_precision=False,  # bfloat16 would round again what is rounded to 8 bits already
        )

    def _log_resolution(self, context: Context) -> None:
        samples, drop = len(context.splits.validation), self._drop(context)
        if 0 < drop < 100 / samples:
            context.progress.log(
                f"{context.name}: one of {samples} validation images is {100 / samples:.1f} points, more than the "
                f"budget of {drop:g}: no image may be lost (data.validation={math.ceil(100 / drop)} tells finer)"
            )

    def _missed(self, climb: Climb, artifact: Artifact, context: Context) -> BudgetMissed:
        if climb.best is None or climb.best_record is None:
            reasons = "; ".join(f"{record.name}: {record.obstacle}" for record in climb.records)
            return BudgetMissed(f"stage {context.name!r}: no rung could be tried: {reasons}")
        from compress.models.persist import save_module
        from compress.support.files import write_bytes
        from compress.support.serialize import to_json

        folder = context.folder / _MISSED
        folder.mkdir(parents=True, exist_ok=True)
        file = save_module(climb.best.graph, artifact.input, folder, source=None)
        write_bytes(folder / _RECORDS, to_json(climb.records))
        return BudgetMissed(
            f"stage {context.name!r}: {self._shortfall(climb, context)}; "
            f"{'it' if file else 'what each rung gave'} is kept in {folder / (file or _RECORDS)}",
            fix=f"stage.{context.name}.on_miss=keep to go on with it, or "
            + " ".join(f"stage.{context.name}.budget.{limit}" for limit in self._enough(climb.best_record, context)),
        )

    def _shortfall(self, climb: Climb, context: Context) -> str:
        record = climb.best_record
        assert record is not None
        noise = "" if self.budget.sqnr_db is None else f" and budget.sqnr_db={self.budget.sqnr_db:g}"
        return (
            f"no rung is within budget.{self._named(context)}{noise}: the best, {record.name}, changes "
            f"top-1 by {record.change_points:+.2f} points on {record.samples} validation images"
            + f", SQNR {record.sqnr_db:.1f} dB"
        )

    def _named(self, context: Context) -> str:
        own = self.budget.top1_drop is not None or context.judge is None
        return f"{'top1_drop' if own else 'drop'}={self._drop(context):g}"

    def _enough(self, record: RungRecord, context: Context) -> list[str]:
        """The limits that would have to be other for the rung to meet them."""
        drop, wanted, sqnr = max(0.0, -(record.change_points or 0.0)), self.budget.sqnr_db, record.sqnr_db
        limits = [f"top1_drop={drop:.3g}"] if drop > self._drop(context) else []
        if wanted is not None and sqnr is not None and sqnr < wanted:
            limits.append(f"sqnr_db={math.floor(10 * sqnr) / 10:g}")
        return limits

    def _notes(self, climb: Climb, context: Context) -> dict[str, str]:
        from compress.quantization.ladder import in_words

        notes = {f"rung {record.number}": f"{record.name}: {in_words(record)}" for record in climb.records}
        return notes if climb.within_budget else {**notes, "budget": f"MISSED: {self._shortfall(climb, context)}"}
