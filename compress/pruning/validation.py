"""Judging a network on part of the validation split, again and again."""

from __future__ import annotations

from torch import nn

from compress.core.artifact import Artifact
from compress.core.errors import StageError
from compress.core.stage import Batch, Context
from compress.training.validate import Validation, validate, validate_source

__all__ = ["Judge"]

_BATCH = 128


class Judge:
    """Accuracy on the first validation images, decoded once; one by one where `artifact` takes no batches.

    Raises:
        StageError: there are none.
    """

    def __init__(self, artifact: Artifact, context: Context, samples: int) -> None:
        self._batches: list[Batch] = []
        missing = samples
        for batch in context.splits.validation.batches(_BATCH if artifact.dynamic_batch else 1):
            self._batches.append(Batch(batch.images[:missing], batch.labels[:missing]))
            missing -= len(self._batches[-1].labels)
            if missing <= 0:
                break
        if not self._batches:
            raise StageError(
                f"stage {context.name!r}: there are no validation images to judge by", fix="data.validation=128"
            )

    @property
    def samples(self) -> int:
        """Number of images."""
        return sum(len(batch.labels) for batch in self._batches)

    def __call__(self, module: nn.Module) -> Validation:
        return validate(module, self._batches)

    def source(self, context: Context) -> Validation | None:
        """Accuracy of the model as loaded, which nothing has pruned; None where there is none."""
        return validate_source(context.source, self._batches)
