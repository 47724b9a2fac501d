"""Measure BatchNorm's running statistics anew after the weights changed; recovers accuracy without training."""

from __future__ import annotations

import copy
from itertools import islice
from typing import Annotated, ClassVar

from pydantic import Field

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import Refusal, StageError
from compress.core.stage import Context, Stage, maker_of
from compress.core.target import Target

__all__ = ["ReestimateBatchnorm"]


class ReestimateBatchnorm(Stage):
    """Replace the running statistics by the mean over batches of the fine-tuning split.

    Attributes:
        batches: number of batches, fewer where the split has fewer.
        batch_size: samples per batch; the variance of small batches is noise.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    produces: ClassVar[Format] = Format.TORCH
    why_not_onnx: ClassVar[str | None] = (
        "the statistics of an ONNX file are frozen; take the PyTorch model it came from"
    )
    data_used: ClassVar[tuple[str, ...]] = ("finetune",)

    batches: Annotated[int, Field(ge=1)] = 32
    batch_size: Annotated[int, Field(ge=2)] = 64

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse an input that is no longer FP32: its normalisation is rounded or part of the weights."""
        if precision is not Precision.FP32:
            raise Refusal(
                f"stage {name!r} measures fp32 statistics, but its input is already {precision}",
                fix=f"stage.{name}.before={maker_of(precision)}",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Measure on a copy of the module.

        Raises:
            StageError: the model has no BatchNorm with running statistics, or there are no samples.
        """
        from compress.training.batchnorm import reestimate, running_statistics
        from compress.training.samples import Samples
        from compress.training.shuffle import Shuffled

        module = copy.deepcopy(artifact.module)
        if not running_statistics(module):
            raise StageError(
                f"stage {context.name!r}: the model has no BatchNorm with running statistics (folded already?)",
                fix=f"stage.{context.name}.before=fold_batchnorm, and prune before it too; or ~stage.{context.name}",
            )
        samples = Samples(context.splits.finetune, cache_bytes=0)  # one pass: nothing to keep
        if len(samples) < 2:
            raise StageError(
                f"stage {context.name!r}: the fine-tuning split has {len(samples)} samples",
                fix="data.finetune=<number of images>, at least 2",
            )
        shuffled = Shuffled(samples, size=self.batch_size, seed=context.seed)
        total = min(self.batches, len(shuffled))
        reestimate(module, context.progress.track(islice(shuffled(0), total), context.name, total=total))
        return artifact.after(context.name, module)
