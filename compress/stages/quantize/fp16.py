"""Half precision: weights and arithmetic in IEEE float16, images and logits in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from compress.errors import Refusal, StageError
from compress.stage import Context, Stage
from compress.types import Artifact, Format, Precision

if TYPE_CHECKING:
    from torch import nn

    from compress.target import Target

__all__ = ["Fp16"]


class Fp16(Stage):
    """Convert a float32 model to float16. Input and output stay float32, so it takes the place of its source."""

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH, Format.ONNX})
    produces: ClassVar[Format] = Format.TORCH

    def precision_from(self, precision: Precision) -> Precision:
        return Precision.FP16

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        target.require_precision(Precision.FP16, stage=name)
        if precision is Precision.INT8:
            raise Refusal(f"stage {name!r}: the model is INT8 already, float16 would undo that", fix=f"~stage.{name}")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        from compress.quantization.half import to_half
        from compress.quantization.options import float_module

        half = to_half(float_module(artifact))
        _check_runs(half, artifact)
        return artifact.after(context.name, half, format=Format.TORCH, precision=Precision.FP16, dynamic_batch=True)


def _check_runs(module: nn.Module, artifact: Artifact) -> None:
    """One sample of zeros: types that clash inside `forward` show here and not in a later stage."""
    import torch

    from compress.quiet import first_line

    try:
        with torch.inference_mode():
            module(torch.zeros(1, *artifact.input.shape))
    except RuntimeError as error:
        raise StageError(
            f"the model does not run in float16: {first_line(error)}",
            fix="make forward follow the type of its input (no fixed torch.float32), or drop the fp16 stage",
        ) from error
