"""Static INT8 post-training quantization: ranges from a calibration set, explicit Q/DQ where the runtime fuses them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from compress.errors import Refusal
from compress.quantization.options import StaticOptions, log_float_layers
from compress.stage import Context
from compress.target import Target
from compress.types import Artifact, Format, Precision

if TYPE_CHECKING:
    from torch import fx

    from compress.quantization.placement import Recipe
    from compress.quantization.static import Calibrated

__all__ = ["PtqStatic"]


class PtqStatic(StaticOptions):
    """Quantize weights and activations to 8 bits (Jacob et al. 2018; Nagel et al. 2021).

    The output is a captured graph with explicit quantize and dequantize operators and integer weights; exporters carry
    its scales unchanged. Recovery steps are independent of each other and run in the order they are listed here.

    Attributes:
        batch_size: calibration images at a time; memory depends on it and not on their number.
        keep_float: layers to leave in float: names, enclosing modules or `fnmatch` patterns (`layer1.0.*`).
        equalize: `weights` across layers (Nagel et al. 2019), for one scale per layer; the channels of `activations`
            (Meller et al. 2019), for networks with depthwise convolutions and one weight scale per channel; or `none`.
        smooth: for transformers, how much of the activations' spread moves into the weights (Xiao et al. 2023), from 0
            to 1, usually 0.5; null for none.
        rounding: of weights: `nearest`, or `adaptive` to each layer's output (Nagel et al. 2020).
        bias_correction: undo the shift of each channel's mean (Nagel et al. 2019), as far as the images agree on it.
    """

    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

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

        from compress.graph import static_batch_reason
        from compress.quantization.ptq import convert
        from compress.quantization.static import layers_matching

        torch.manual_seed(context.seed)
        graph = self.float_graph(artifact, context)
        reason = static_batch_reason(graph)
        recipe = self.recipe(context)
        recipe = replace(recipe, keep_float=layers_matching(graph, recipe, self.keep_float))
        notes = log_float_layers(graph, recipe, context)
        calibrated = self._calibrated(graph, recipe, 1 if reason else self.batch_size, context)
        if calibrated.did:
            notes["recovery"] = ", ".join(calibrated.did)
            context.progress.log(f"{context.name}: {notes['recovery']}")
        if reason:
            context.progress.log(f"{context.name}: batch fixed to 1: {reason}")
        return artifact.after(
            context.name,
            convert(calibrated.prepared),
            format=Format.TORCH,
            precision=Precision.INT8,
            dynamic_batch=reason is None,
            notes=notes,
        )

    def _calibrated(self, graph: fx.GraphModule, recipe: Recipe, batch_size: int, context: Context) -> Calibrated:
        from compress.quantization.static import CalibrationImages, Recovery, quantize

        recovery = Recovery(self.equalize, self.smooth, self.rounding, self.bias_correction)
        images = CalibrationImages(context.splits.calibration, batch_size)
        return quantize(graph, recipe, recovery, images, context.progress)
