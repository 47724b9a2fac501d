"""The roofline model: what arithmetic and memory take at least (Williams, Waterman, Patterson 2009).

Whatever estimates or explains a time starts from it: estimates of the device, costs of layers for pruning and for mixed
precision, what a profiled layer waits for. How far kernels stay below it is theirs to add.
"""

from __future__ import annotations

from dataclasses import dataclass

from compress.core.artifact import Precision
from compress.core.target import Target

__all__ = ["ELEMENT_BYTES", "Roofline", "published"]

ELEMENT_BYTES = {Precision.FP32: 4, Precision.FP16: 2, Precision.INT8: 1}
"""Of a weight or an activation."""


@dataclass(frozen=True)
class Roofline:
    """Limits of a machine in one precision.

    Attributes:
        flops: peak arithmetic in operations per second, two for a multiply-accumulate.
        bandwidth: of the memory in bytes per second.
    """

    flops: float
    bandwidth: float

    def computing(self, operations: float) -> float:
        """Seconds that `operations` take, wherever their operands are."""
        return operations / self.flops

    def moving(self, bytes: float) -> float:
        """Seconds that reading and writing so many bytes takes."""
        return bytes / self.bandwidth

    @property
    def ridge(self) -> float:
        """Operations per byte from where on arithmetic is the limit."""
        return self.flops / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """Operations per second of a kernel with so many operations per byte."""
        return min(self.flops, self.bandwidth * intensity)


def published(target: Target, precision: Precision) -> Roofline | None:
    """Roofline that a device's profile states, all cores together; None where it states no peak for the precision."""
    peak = target.peak_flops.get(precision)
    return None if peak is None else Roofline(peak.value, target.bandwidth_bytes_per_s.value)
