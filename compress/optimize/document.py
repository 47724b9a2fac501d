"""Contents of `optimize.json`: what was tried, what it gave, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compress.core.measurement import LatencyRatio
from compress.optimize.facts import GraphFacts

__all__ = ["Attempt", "Optimization", "Outcome"]

Outcome = Literal["kept", "changes nothing", "not kept", "failed"]


@dataclass(frozen=True)
class Attempt:
    """One pass.

    Attributes:
        reason: why it was kept or not, in words.
        facts: of the graph it made; None if there is none that could be judged.
        latency: against the graph it was given.
        max_abs_error: largest difference of any logit from the source's.
    """

    name: str
    does: str
    outcome: Outcome
    reason: str
    facts: GraphFacts | None = None
    latency: LatencyRatio | None = None
    max_abs_error: float | None = None


@dataclass(frozen=True)
class Optimization:
    """Source and result compared.

    Attributes:
        latency: of the result over the source, both as ONNX Runtime runs them here; None where nothing was kept.
        max_abs_error: largest difference of any logit of the result from the source's, over `samples` images.
        ort_file: name of the ORT-format file beside the result, None if none was asked for.
    """

    device: str
    threads: int
    samples: int
    before: GraphFacts
    after: GraphFacts
    latency: LatencyRatio | None
    max_abs_error: float
    passes: tuple[Attempt, ...]
    ort_file: str | None = None
    ort_bytes: int | None = None
    schema: int = 1
