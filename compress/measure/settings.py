"""Settings of measuring; the part of the configuration under `measure`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["MeasureConfig"]


class MeasureConfig(BaseModel):
    """Options of measuring at every boundary.

    Attributes:
        scope: `full` measures every boundary; `quick` the source and the files, of the modules in between only what
            needs no run (size, parameters, sparsity).
        batch_size: samples per call while evaluating accuracy.
        threads: threads of the runtime while timing.
        latency_runs: timed calls of one sample.
        latency_warmup: calls before them that are not counted.
        latency_seconds: stop timing after this long even if calls are left.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: Literal["full", "quick"] = "full"
    batch_size: Annotated[int, Field(ge=1)] = 64
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    latency_runs: Annotated[int, Field(ge=3)] = 200
    latency_warmup: Annotated[int, Field(ge=0)] = 20
    latency_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3.0
