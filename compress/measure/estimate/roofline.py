"""Time of a network on a device from its peak and bandwidth (Williams, Waterman, Patterson 2009, roofline model).

    t(layer) = operations / (peak * efficiency(kind)) + bytes / (bandwidth * share) + overhead

Small in-order-ish cores overlap little of computing and moving, so the two add up. The five constants were fitted to
six published Raspberry Pi 4 times (ncnn, benchmark/README.md, 1.8 GHz, 4 threads, FP32: SqueezeNet 1.1, MNASNet,
RegNetY-400MF, GoogLeNet, AlexNet, VGG-16); `scripts/bench_estimates.py` judges them by six others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from compress.core.artifact import Precision
from compress.core.quantities import Amount, Count
from compress.core.roofline import ELEMENT_BYTES, Roofline, published
from compress.core.target import Target
from compress.formats.base import NotMeasured
from compress.formats.onnx.layers import Kind, Layer

__all__ = ["BAND", "Estimate", "LayerTime", "estimate"]

_EFFICIENCY: dict[Kind, float] = {"dense": 0.31, "winograd": 1.20, "depthwise": 0.13, "elementwise": 0.13}
"""Share of the peak by kind. Winograd's F(2x2, 3x3) saves 2.25 of the multiplications (Lavin, Gray 2016), so that 3x3
convolutions pass the peak of the direct method."""

_BANDWIDTH_SHARE = 0.43
_OVERHEAD_SECONDS = 88e-6
"""Starting a layer that computes, and waiting for the slowest of its threads."""

BAND = 2.0
"""An estimate that nothing was calibrated with is stated as a range, from half to twice the value: the largest error on
the six networks that were held out is 1.5, and another runtime or device adds its own."""


@dataclass(frozen=True)
class LayerTime:
    """One layer's share; `bound` is what it waits for."""

    name: str
    operator: str
    ms: Amount
    bound: str


@dataclass(frozen=True)
class Estimate:
    """Estimated time of one sample. Never a measurement.

    Attributes:
        low_ms, high_ms: where the real value is expected.
        basis: what the numbers rest on, in words.
    """

    stage: str
    ms: Amount
    low_ms: Amount
    high_ms: Amount
    threads: Count
    basis: str
    layers: tuple[LayerTime, ...] = ()


def estimate(
    stage: str,
    layers: Iterable[Layer],
    precision: Precision,
    target: Target,
    *,
    factor: float = 1.0,
    band: float = BAND,
    basis: str = "",
) -> Estimate:
    """Estimate a file with these layers on `target`, all its cores.

    Args:
        factor, band, basis: of a calibration (`compress.measure.estimate.calibration`).

    Raises:
        NotMeasured: the target states no peak for the precision.
    """
    roof = published(target, precision)
    if roof is None:
        raise NotMeasured(f"{target.title} states no {precision} peak")
    times = tuple(_time(layer, precision, roof, factor) for layer in layers)
    total = sum(layer.ms for layer in times)
    words = basis or f"roofline of {target.title}, not calibrated"
    return Estimate(stage, total, total / band, total * band, target.cores or 1, words, times)


def slowest(layers: Sequence[LayerTime], count: int = 5) -> list[LayerTime]:
    """The layers that take longest."""
    return sorted(layers, key=lambda layer: -layer.ms)[:count]


def _time(layer: Layer, precision: Precision, roof: Roofline, factor: float) -> LayerTime:
    reached = Roofline(roof.flops * _EFFICIENCY[layer.kind], roof.bandwidth * _BANDWIDTH_SHARE)
    computes = layer.kind != "elementwise"
    arithmetic = reached.computing(layer.operations) if computes else 0.0
    memory = reached.moving(layer.weight_bytes + layer.elements * ELEMENT_BYTES[precision])
    overhead = _OVERHEAD_SECONDS if computes else 0.0
    bound = "arithmetic" if arithmetic > memory else "memory"
    return LayerTime(layer.name, layer.operator, 1e3 * factor * (arithmetic + memory + overhead), bound)
