"""Options under `logger:`; `kind` chooses the logger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["LoggerConfig", "MlflowLogging", "NoLogging", "TensorboardLogging"]


class NoLogging(BaseModel):
    """The run's own report, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["none"] = "none"


class TensorboardLogging(BaseModel):
    """Event files for TensorBoard.

    Attributes:
        folder: receives `<target>/<time>/` for each run; null: `tensorboard` in the folder of results.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["tensorboard"]
    folder: Path | None = None


class MlflowLogging(BaseModel):
    """A run in MLflow's local file store; no server is asked.

    Attributes:
        folder: of the store; null: `mlruns` in the folder of results.
        experiment: that the run is put under.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["mlflow"]
    folder: Path | None = None
    experiment: Annotated[str, Field(min_length=1)] = "edge-compress"


LoggerConfig = Annotated[NoLogging | TensorboardLogging | MlflowLogging, Field(discriminator="kind")]
