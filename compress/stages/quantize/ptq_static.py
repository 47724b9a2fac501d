"""Static INT8 post-training quantization: ranges from a calibration set, explicit Q/DQ where the runtime fuses them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, field_validator

from compress.errors import Refusal, nearest
from compress.quantization.observers import observer_names
from compress.quantization.policy import load_policy, policy_names
from compress.stage import Context, Stage
from compress.target import Target
from compress.types import Artifact, Format, Precision

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

    from compress.quantization.placement import Recipe

__all__ = ["PtqStatic"]


class PtqStatic(Stage):
    """Quantize weights and activations to 8 bits (Jacob et al. 2018; Nagel et al. 2021).

    The output is a captured graph with explicit quantize and dequantize operators and integer weights; exporters carry
    its scales unchanged.

    Attributes:
        observer: how activation ranges are found, a file in `compress/quantization/observers`.
        per_channel: one weight scale per output channel instead of one per layer.
        placement: a policy of `compress/quantization/policies`; None takes the target's.
        reduce_range: weights in 7 bits; None takes the target's.
        batch_size: calibration images at a time; memory depends on it and not on their number.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH, Format.ONNX})
    produces: ClassVar[Format] = Format.TORCH
    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

    observer: str = "histogram"
    per_channel: bool = True
    placement: str | None = None
    reduce_range: bool | None = None
    batch_size: Annotated[int, Field(ge=1)] = 32

    @field_validator("observer")
    @classmethod
    def _observer_exists(cls, value: str) -> str:
        if value not in observer_names():
            raise ValueError(f"unknown observer {value!r}: {nearest(value, observer_names())}")
        return value

    @field_validator("placement")
    @classmethod
    def _placement_exists(cls, value: str | None) -> str | None:
        if value is not None and value not in policy_names():
            raise ValueError(f"unknown placement {value!r}: {nearest(value, policy_names())}")
        return value

    def precision_from(self, precision: Precision) -> Precision:
        return Precision.INT8

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse a target without INT8 compute or without a known placement, and an input that is not FP32."""
        target.require_precision(Precision.INT8, stage=name)
        if precision is not Precision.FP32:
            raise Refusal(
                f"stage {name!r} quantizes fp32 models, but its input is already {precision}",
                fix=f"~stage.{name}, or drop the stage that makes it {precision}",
            )
        self._placement_for(target, name)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Calibrate on `splits.calibration` and convert.

        Raises:
            StageError: no calibration images, or NaN or infinity in weights or activations (names the layer).
            ModelError: the module cannot be captured.
        """
        import torch

        from compress.graph import static_batch_reason

        torch.manual_seed(context.seed)
        graph = self._quantize(_module_of(artifact), artifact, context)
        reason = static_batch_reason(graph)
        if reason:
            context.progress.log(f"{context.name}: batch fixed to 1: {reason}")
        return artifact.after(
            context.name, graph, format=Format.TORCH, precision=Precision.INT8, dynamic_batch=reason is None
        )

    def _quantize(self, module: nn.Module, artifact: Artifact, context: Context) -> fx.GraphModule:
        from compress.graph import static_batch_reason
        from compress.quantization.ptq import calibrate, convert, float_graph, layers_in_float, prepare

        recipe = self._recipe(context)
        graph = float_graph(module, artifact.input)
        in_float = layers_in_float(graph, recipe)
        if in_float:
            names = ", ".join(f"{count} x {name}" for name, count in in_float.most_common())
            context.progress.log(f"{context.name}: left in float: {names}")
        size = 1 if static_batch_reason(graph) else self.batch_size
        prepared = prepare(graph, recipe)
        calibrate(prepared, _batches(context, size))
        return convert(prepared)

    def _recipe(self, context: Context) -> Recipe:
        from compress.quantization.observers import load_observer
        from compress.quantization.placement import Recipe

        scheme = context.target.int8
        reduce_range = self.reduce_range
        if reduce_range is None:
            reduce_range = scheme is not None and scheme.reduce_range
        return Recipe(
            policy=load_policy(self._placement_for(context.target, context.name)),
            activation_observer=load_observer(self.observer),
            per_channel=self.per_channel,
            reduce_range=reduce_range,
        )

    def _placement_for(self, target: Target, name: str) -> str:
        placement = self.placement or (target.int8.placement if target.int8 else None)
        if placement is None:
            raise Refusal(
                f"stage {name!r}: {target.title} does not say how its runtime wants INT8 expressed",
                fix=f"stage.{name}.placement=<{'|'.join(policy_names())}>",
            )
        return placement


def _module_of(artifact: Artifact) -> nn.Module:
    if artifact.format is Format.TORCH:
        return artifact.module
    from compress.onnx_import import onnx_to_module

    return onnx_to_module(artifact.path)


def _batches(context: Context, size: int) -> Iterator[torch.Tensor]:
    import torch

    split = context.splits.calibration
    batches = split.batches(size)
    for batch in context.progress.track(batches, f"calibrating on {len(split)} images", total=-(-len(split) // size)):
        yield torch.from_numpy(batch.images)
