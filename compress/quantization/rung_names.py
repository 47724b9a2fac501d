"""Names of the rungs of the accuracy ladder; free of torch, so that a stage can check them at start-up."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

__all__ = ["RUNGS", "RungName"]

RungName: TypeAlias = Literal["min_max", "range_search", "equalize_bias", "rounding", "mixed_precision", "qat"]

RUNGS: tuple[RungName, ...] = get_args(RungName)
"""All of them, cheapest first."""
