"""Check that the bytes in a file are the tensors that the file says they are."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

__all__ = ["LARGEST", "Damaged", "extent"]

LARGEST = 4 * 2**30
"""Bytes that a model file may take, also unpacked: records compress a thousandfold. No edge device runs more."""


class Damaged(Exception):
    """A record is not what the file says of it; the message names it."""


def extent(offset: int, sizes: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from a record's start to the end of a tensor that lies in it.

    Raises:
        Damaged: a negative number, or sizes and strides of different length.
    """
    if len(sizes) != len(strides) or any(number < 0 for number in (offset, *sizes, *strides)):
        raise Damaged(f"a tensor has the shape {tuple(sizes)} and the strides {tuple(strides)}")
    if prod(sizes) == 0:
        return 0
    return offset + 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
