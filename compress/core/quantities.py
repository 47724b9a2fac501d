"""Numbers as documents hold them, as types: outside of them, whoever reads a document refuses it by the field's name.

A dataclass with these is built with any number, as before; they count where it is read (`serialize.from_json`).
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field

__all__ = ["Above", "Amount", "Count", "Few", "Finite", "Known", "Magnitude", "Many", "Milliseconds", "Positive"]
__all__ += ["Share"]

T = TypeVar("T")

Few = Annotated[tuple[T, ...], Field(max_length=1000)]
"""What a person reads line by line: stages, devices."""
Many = Annotated[tuple[T, ...], Field(max_length=100_000)]
"""What there is one of for each layer, file or class."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""What every reader of JSON keeps exactly."""
Positive = Annotated[int, Field(ge=1, le=2**53)]

Amount = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
"""Milliseconds, bytes per second, operations: a second's worth of the largest computer is 1e18."""
Above = Annotated[float, Field(gt=0, le=1e18, allow_inf_nan=False)]
"""An amount that others are divided by."""
Milliseconds = Annotated[float, Field(ge=1e-6, le=1e9, allow_inf_nan=False)]
"""One call: from a clock tick of a nanosecond to eleven days; NaN passes comparisons and is refused by name."""
Share = Annotated[float, Field(ge=0, le=1 + 1e-9)]
"""Also of sums whose last bit was rounded up."""
Finite = Annotated[float, Field(ge=-1e18, le=1e18, allow_inf_nan=False)]
"""Also negative: degrees, differences, ends of a range."""
Magnitude = Annotated[float, Field(ge=0)]
"""Also infinite: the difference from what is infinite."""
Known = Annotated[float, Field(ge=float("-inf"))]
"""Anything but NaN: decibels of equal outputs are infinite."""
