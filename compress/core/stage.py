"""The contract of a stage: `requires(target)` before any work, then `run(artifact, context) -> artifact`."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from compress.core.artifact import Artifact, Format, Precision, Scaling
from compress.core.budget import Budget, Verdict
from compress.core.target import Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Batch", "BudgetJudge", "Context", "ExportStage", "LeftOut", "Progress", "Silent", "Split", "Splits"]
__all__ += ["Stage", "maker_of"]

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Samples as the network takes them: images float32 `[N, C, H, W]` normalised, labels int64 `[N]`."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


class Split(Protocol):
    """A fixed, ordered set of samples that is read in batches and never held in memory whole."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def batches(self, size: int, *, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """All samples once, in order (or those at the positions `order`, from 0), at most `size` at a time."""
        ...

    def digest(self) -> str:
        """Hex SHA-256 over the samples' content, labels and preprocessing."""
        ...


class Splits(Protocol):
    """Disjoint splits of one data set. `evaluation` is the test split: no stage decides anything by it."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def scaling(self) -> Scaling:
        """Scaling that gave the pictures of all of them the input's size."""
        ...

    @property
    def calibration(self) -> Split: ...

    @property
    def finetune(self) -> Split: ...

    @property
    def validation(self) -> Split: ...

    @property
    def evaluation(self) -> Split: ...


class Progress(Protocol):
    """Display of how far a long step is."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items` while showing a bar (interactive) or nothing (piped)."""
        ...

    def log(self, message: str) -> None:
        """One line for the user."""
        ...


class Silent:
    """A `Progress` that shows nothing."""

    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield `items`."""
        del description, total
        yield from items

    def log(self, message: str) -> None:
        """Drop the line."""
        del message


class BudgetJudge(Protocol):
    """Compares a model with the source on validation images, for a stage that is held to the run's budget."""

    @property
    def budget(self) -> Budget: ...

    @property
    def unjudged(self) -> str | None:
        """Say why the labels cannot tell what was lost; None if they can."""
        ...

    def __call__(
        self,
        model: Artifact,
        *,
        images: int | None = None,
        run: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
    ) -> Verdict:
        """Against the source on the first `images` of them, all by default; run by `run`, or in its own runtime."""
        ...


@dataclass(frozen=True)
class Context:
    """Context that a stage may use besides its input artifact.

    Attributes:
        name: the stage's name in the recipe; files it writes are named after it.
        folder: existing folder for the files the stage writes, through `files.atomic_path`.
        seed: for every random choice.
        source: the model as loaded, before any stage; None where there is none (a stage run by itself).
        judge: for a stage that is held to the budget of the run; None where there is no budget.
    """

    name: str
    target: Target
    splits: Splits
    folder: Path
    seed: int
    progress: Progress
    source: Artifact | None = None
    judge: BudgetJudge | None = None


class Stage(BaseModel, abc.ABC):
    """One step of the pipeline. Fields are its options: typed, validated, and documented where they are declared.

    A stage never mutates its input, writes only below `context.folder`, never imports another stage and measures
    nothing: measuring belongs to the pipeline. Stages that only look (`produces = None`) hand on what they were given
    and attach what they found.

    Attributes:
        source: take the output of this earlier stage instead of the newest artifact in an accepted format.
        before: run just before this stage instead of where the recipe lists it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    accepts: ClassVar[frozenset[Format]]
    produces: ClassVar[Format | None]
    """Format of the output; None hands on what came in, for stages that only look."""
    why_not_onnx: ClassVar[str | None] = None
    """Why the stage does not take an ONNX source, for the refusal."""
    data_used: ClassVar[tuple[str, ...]] = ()
    """Names of the `Splits` fields the result depends on; their digests go into the stage's content hash."""
    held: ClassVar[bool] = False
    """Whether the stage backs off where it would break the budget of the run."""
    recovers: ClassVar[bool] = False
    """Whether the stage trains back what stages before it lost: they are not held to the budget then."""

    source: str | None = None
    before: str | None = None

    def precision_from(self, precision: Precision) -> Precision:
        """Precision of the output, given the input's. Lets the pipeline check a whole recipe before running it."""
        return precision

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Raise `Refusal` when `target` cannot use this stage on an input of `precision`; `name` as in the recipe.

        Only the pipeline knows which stage made the input what it is: it puts its name for `maker_of(precision)`.
        """

    def equal_on(self) -> int:
        """Number of calibration images on which the output has to compute what the input does; 0 where the stage is
        meant to change that. The pipeline holds the stage to it (`compress.verify`)."""
        return 0

    def foresee(self, source: Artifact, target: Target) -> None:
        """Raise now what a run would end with after hours: something in the FP32 network `source` that no stage before
        this one takes out. Asked where work stands between the two; `source` is never changed."""

    def surroundings(self) -> dict[str, str]:
        """Programs found on this machine that the result depends on, besides input, options, data and versions."""
        return {}

    def missing_here(self) -> str | None:
        """Name what this machine lacks, so that the stage hands part of its work to another one; None if nothing."""
        return None

    @abc.abstractmethod
    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Make the output artifact. Raises `StageError` on failure and leaves nothing half-written."""


@dataclass(frozen=True)
class LeftOut:
    """A stage of the recipe that the model has no use for, and why; the run goes on without it."""

    stage: str
    reason: str


def maker_of(precision: Precision) -> str:
    """Stands in a fix for the name of the stage that made a model `precision`."""
    return f"<the stage that makes it {precision}>"


class ExportStage(Stage, abc.ABC):
    """A stage that writes a model into a file.

    Attributes:
        baseline: the file is only there to be compared with: no stage takes it unless its `source` names it.
    """

    baseline: bool = False
