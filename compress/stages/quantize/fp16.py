"""Half precision: weights and arithmetic in IEEE float16, images and logits in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import ModelError, Refusal, StageError
from compress.core.stage import Context, Stage

if TYPE_CHECKING:
    from torch import fx, nn

    from compress.core.target import Target

__all__ = ["Fp16"]

_IMAGES = 16
"""Calibration images on which the float16 model must say what its source says."""


class Fp16(Stage):
    """Convert a float32 model to float16. Input and output stay float32, so it takes the place of its source.

    Constants beyond float16, such as the -1e9 of attention masks, end at +-65504 and are noted.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH, Format.ONNX})
    produces: ClassVar[Format] = Format.TORCH
    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

    def precision_from(self, precision: Precision) -> Precision:
        return Precision.FP16

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        target.require_precision(Precision.FP16, stage=name)
        if precision is Precision.INT8:
            raise Refusal(f"stage {name!r}: the model is INT8 already, float16 would undo that", fix=f"~stage.{name}")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Convert, and compare with the source on calibration images.

        Raises:
            Refusal: the model is not float32.
            StageError: a weight or an activation is beyond float16 (names the layer and its value), or the model does
                not run in float16.
            ParityError: the import of an ONNX file does not compute what the file does; names the first layer.
        """
        from torch import fx

        from compress.formats.parity import first_images
        from compress.quantization.half import to_half
        from compress.quantization.half_range import check_half, saturated
        from compress.quantization.options import float_module, single_image_reason
        from compress.verify.form import require_equal_graph

        source = float_module(artifact)
        if artifact.format is not Format.TORCH and isinstance(source, fx.GraphModule):
            require_equal_graph(artifact, source, context.splits.calibration)
        graph = _captured(source, artifact)
        limited, constants = saturated(graph) if graph is not None else (None, ())
        half = to_half(limited or source)
        _check_runs(half, artifact)
        together = artifact.dynamic_batch if graph is None else single_image_reason(graph, artifact) is None
        images = first_images(context.splits.calibration, _IMAGES)
        batches = [part for batch in images for part in ([batch] if together else np.split(batch, len(batch)))]
        return artifact.after(
            context.name,
            half,
            format=Format.TORCH,
            precision=Precision.FP16,
            dynamic_batch=together,
            notes=check_half(source, half, limited, constants, batches),
        )


def _captured(module: nn.Module, artifact: Artifact) -> fx.GraphModule | None:
    """The module as a graph, in which numbers and types can be changed; None if it cannot be traced."""
    from compress.graph.capture import capture

    try:
        return capture(module, artifact.input)
    except ModelError:
        return None


def _check_runs(module: nn.Module, artifact: Artifact) -> None:
    """One sample of zeros: types that clash inside `forward` show here and not in a later stage."""
    import torch

    from compress.support.quiet import first_line

    try:
        with torch.inference_mode():
            module(torch.zeros(1, *artifact.input.shape))
    except RuntimeError as error:
        raise StageError(
            f"the model does not run in float16: {first_line(error)}",
            fix="make forward follow the type of its input (no fixed torch.float32), or drop the fp16 stage",
        ) from error
