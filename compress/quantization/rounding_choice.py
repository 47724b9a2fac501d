"""Adaptive rounding or nearest: whichever the network's own outputs prefer, on images that neither was fitted to."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from compress.core.budget import Verdict
from compress.quantization.ladder import Made

__all__ = ["better_rounding"]


def better_rounding(
    adaptive: Made, nearest: Made, judge: Callable[[fx.GraphModule], Verdict], split: str
) -> tuple[Made, str]:
    """The adaptively rounded graph, unless it agrees with the float network on fewer images or is noisier; in words.

    Args:
        split: name of the images that `judge` looks at.
    """
    ours, theirs = judge(adaptive.graph), judge(nearest.graph)
    worse = ours.sqnr_db < theirs.sqnr_db or ours.agreement < theirs.agreement
    kept, name = (nearest, "nearest") if worse else (adaptive, "adaptive")
    numbers = ", ".join(
        f"{title} {verdict.sqnr_db:.1f} dB and {verdict.agreement:.1%} agreement"
        for title, verdict in (("adaptive", ours), ("nearest", theirs))
    )
    return kept, f"{name} rounding is kept: {numbers} on {ours.samples} {split} images"
