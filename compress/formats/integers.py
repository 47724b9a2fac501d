"""The share of a file that computes in integers: `int8` in a table stands for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from compress.core.measurement import IntegerShare
from compress.formats.base import NotMeasured

__all__ = ["LayerWork", "integer_share"]


@dataclass(frozen=True)
class LayerWork:
    """One layer with weights or a product: its multiply-accumulates, and whether they are of integers."""

    macs: int
    in_integers: bool


def integer_share(layers: Iterable[LayerWork], *, weights: int, integer_weights: int) -> IntegerShare:
    """The shares that integers have.

    Raises:
        NotMeasured: there is no weight and no multiplication.
    """
    layers = list(layers)
    macs = sum(layer.macs for layer in layers)
    if not macs and not weights:
        raise NotMeasured("found no layer with weights")
    integer = sum(layer.macs for layer in layers if layer.in_integers)
    return IntegerShare(integer / macs if macs else None, integer_weights / weights if weights else None)
