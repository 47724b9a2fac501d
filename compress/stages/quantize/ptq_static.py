"""Static INT8 post-training quantization: ranges from a calibration set, explicit Q/DQ where the runtime fuses them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from compress.core.artifact import Artifact, Format, Precision
from compress.core.budget import Budget
from compress.core.errors import Refusal
from compress.core.stage import Context
from compress.core.target import Target
from compress.quantization.options import StaticOptions, log_float_layers, single_image_reason
from compress.training.options import TrainOptions

if TYPE_CHECKING:
    from torch import fx, nn

    from compress.core.budget import Verdict
    from compress.core.stage import BudgetJudge
    from compress.quantization.hold import Held
    from compress.quantization.ladder import Made, Settings
    from compress.quantization.static import CalibrationImages

__all__ = ["PtqStatic"]


class PtqStatic(StaticOptions):
    """Quantize weights and activations to 8 bits (Jacob et al. 2018; Nagel et al. 2021).

    The output is a captured graph with explicit quantize and dequantize operators and integer weights; exporters carry
    its scales unchanged. Recovery steps are independent of each other and run in the order they are listed here.

    Where the result would break the accuracy budget of the run, it is quantized again with equalized activations and
    corrected biases and, if that is not enough, with the layers in float that matter most; the report says so.

    Attributes:
        batch_size: calibration images at a time; memory depends on it and not on their number.
        keep_float: layers to leave in float: names, enclosing modules or `fnmatch` patterns (`layer1.0.*`).
        equalize: `weights` across layers (Nagel et al. 2019), for one scale per layer; the channels of `activations`
            (Meller et al. 2019), for networks with depthwise convolutions and one weight scale per channel; or `none`.
        smooth: for transformers, how much of the activations' spread moves into the weights (Xiao et al. 2023), from 0
            to 1, usually 0.5; null for none.
        rounding: of weights: `nearest`, or `adaptive` to each layer's output (Nagel et al. 2020), which is kept where
            validation images do not tell otherwise.
        bias_correction: undo the shift of each channel's mean (Nagel et al. 2019), as far as the images agree on it.
    """

    data_used: ClassVar[tuple[str, ...]] = ("calibration", "validation")
    held: ClassVar[bool] = True

    batch_size: Annotated[int, Field(ge=1)] = 32
    keep_float: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    equalize: Literal["none", "weights", "activations"] = "none"
    smooth: Annotated[float, Field(ge=0, le=1)] | None = None
    rounding: Literal["nearest", "adaptive"] = "nearest"
    bias_correction: bool = False

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Besides what every static stage refuses: `keep_float` where the runtime has no float to fall back to."""
        super().requires(target, precision, name)
        policy = self.policy(target, name)
        if self.keep_float and policy.unlisted is not None:
            raise Refusal(
                f"stage {name!r}: placement {policy.runtime!r} leaves nothing in float, but keep_float names "
                f"{', '.join(self.keep_float)}",
                fix=f"stage.{name}.keep_float=[]",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Calibrate on `splits.calibration` and convert.

        Raises:
            StageError: no calibration images, NaN or infinity in weights or activations (names the layer), or a
                `keep_float` pattern that matches nothing.
            ModelError: the module cannot be captured.
        """
        import torch

        from compress.quantization.static import CalibrationImages

        torch.manual_seed(context.seed)
        graph = self.float_graph(artifact, context)
        reason = single_image_reason(graph, artifact)
        settings = self._settings(graph, context)
        notes = log_float_layers(graph, settings.recipe, context)
        images = CalibrationImages(context.splits.calibration, 1 if reason else artifact.fitting(self.batch_size))
        made, kept = self._made(graph, settings, images, artifact, context)
        notes |= kept
        if made.did:
            notes["recovery"] = ", ".join(made.did)
            context.progress.log(f"{context.name}: {notes['recovery']}")
        if reason:
            context.progress.log(f"{context.name}: batch fixed to 1: {reason}")
        if context.judge is not None:
            held = self._held(made, context.judge, artifact, reason, context)
            made, notes = held.made, {**notes, **held.notes}
        return artifact.after(
            context.name,
            made.graph,
            format=Format.TORCH,
            precision=Precision.INT8,
            dynamic_batch=reason is None,
            notes=notes,
        )

    def _settings(self, graph: fx.GraphModule, context: Context) -> Settings:
        from compress.quantization.ladder import Settings
        from compress.quantization.static import Recovery, layers_matching

        recipe = self.recipe(context)
        recipe = replace(recipe, keep_float=layers_matching(graph, recipe, self.keep_float))
        return Settings(recipe, Recovery(self.equalize, self.smooth, self.rounding, self.bias_correction))

    def _made(
        self, graph: fx.GraphModule, settings: Settings, images: CalibrationImages, artifact: Artifact, context: Context
    ) -> tuple[Made, dict[str, str]]:
        """Quantized as asked for, and what is to be said about it. Changes `graph`.

        Adaptive rounding fits each layer to calibration images, which is no promise about the network: what it gives is
        only kept where validation images do not tell otherwise.
        """
        from compress.quantization.ladder import Made
        from compress.quantization.ptq import convert
        from compress.quantization.rounding_choice import better_rounding
        from compress.quantization.static import quantize
        from compress.verify.judge import Judge

        def made(graph: fx.GraphModule, settings: Settings) -> Made:
            calibrated = quantize(graph, settings.recipe, settings.recovery, images, context.progress)
            return Made(convert(calibrated.prepared), settings, calibrated.did)

        if settings.recovery.rounding == "nearest":
            return made(graph, settings), {}
        judge = Judge(artifact, context.splits, Budget())
        both = made(copy.deepcopy(graph), settings), made(graph, settings.with_rounding("nearest"))
        quantized = replace(artifact, format=Format.TORCH, model=graph, dynamic_batch=images.batch_size > 1)
        split = "validation" if len(context.splits.validation) else "calibration"
        kept, text = better_rounding(*both, lambda graph: judge(replace(quantized, model=graph)), split)
        context.progress.log(f"{context.name}: {text}")
        return kept, {"rounding": text}

    def _held(self, made: Made, judge: BudgetJudge, artifact: Artifact, single: str | None, context: Context) -> Held:
        """Return what is within the budget of the run, or comes nearest to it.

        Args:
            single: why images are run one by one; None where they are not.
        """
        from compress.core.budget import Limits
        from compress.quantization.hold import Held, hold
        from compress.quantization.mixed_precision import extra_bytes
        from compress.quantization.observers import load_observer
        from compress.quantization.rungs import Bench
        from compress.quantization.static import CalibrationImages

        def judged(module: nn.Module) -> Verdict:
            return judge(replace(artifact, model=module, format=Format.TORCH, dynamic_batch=single is None))

        limits, verdict = Limits(judge.budget.drop or 0.0), judged(made.graph)
        if limits.met_by(verdict) or not verdict.labelled:
            return Held(made, {})
        graph = self.float_graph(artifact, context)
        bench = Bench(
            graph=graph,
            recipe=made.settings.recipe,
            judge=judged,
            images=CalibrationImages(context.splits.calibration, 1 if single else artifact.fitting(self.batch_size)),
            single=single,
            splits=context.splits,
            search=load_observer(self.observer),
            limits=limits,
            float_cost=extra_bytes,
            training=TrainOptions(epochs=1, learning_rate=0.001),  # no rung of these trains
            training_batch=1,
            seed=context.seed,
            folder=context.folder,
            progress=context.progress,
            description=context.name,
        )
        return hold(made, verdict, bench, lambda: judge(artifact))
