"""Two ONNX files against each other in ONNX Runtime, in sessions opened anew for every round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress.measure.host import describe_host
from compress.measure.latency import PairedLatency, paired_latency
from compress.optimize.document import Ratio
from compress.runtimes.onnx import load

if TYPE_CHECKING:
    from compress.types import Artifact

__all__ = ["THREADS", "race"]

THREADS = 1
_WARMUP = 5
_RUNS = 200
_ROUNDS = 4


def race(first: Artifact, second: Artifact, seconds: float) -> Ratio:
    """Time of one image in `first` over that in `second`, measured for at most `seconds`.

    Two sessions of one and the same file differ by up to 1.2 % for as long as they live (where their weights lie in
    memory), which no number of calls averages out. So every round opens new ones, in turn the other way round.
    """
    rounds = [_round(first, second, seconds / _ROUNDS, swapped=bool(index % 2)) for index in range(_ROUNDS)]
    return Ratio(
        ratio=float(np.median([one.ratio for one in rounds])),
        low=min(one.low for one in rounds),
        high=max(one.high for one in rounds),
        pairs=sum(one.pairs for one in rounds),
    )


def _round(first: Artifact, second: Artifact, seconds: float, *, swapped: bool) -> PairedLatency:
    image = np.random.default_rng(0).standard_normal((1, *first.input.shape), dtype=np.float32)
    order = (second, first) if swapped else (first, second)
    runners = [load(artifact, threads=THREADS) for artifact in order]
    return paired_latency(
        runners[swapped],
        runners[not swapped],
        image,
        runs=_RUNS,
        warmup=_WARMUP,
        seconds=seconds,
        threads=THREADS,
        device=describe_host().label,
    )
