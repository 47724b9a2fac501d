"""Tolerances of a device's outputs against the golden ones, by precision and by the runtime that computes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from compress.core.artifact import Precision
from compress.formats.parity import TOLERANCES

__all__ = ["tolerances"]

_STEPS = 255  # of 8 bits
_LSB = 3
"""Largest difference of any INT8 tensor between x86 with VNNI and a Cortex-A72, measured under emulation with ONNX
Runtime 1.31: 0 for U8U8 and for U8S8 with 7-bit weights, 3 for S8S8. LiteRT with XNNPACK was identical."""

_INT8_ELSEWHERE = replace(TOLERANCES[Precision.INT8], mean_lsb=None).limits()
"""Another runtime's kernels round at other places; the agent knows no steps."""


def tolerances(
    precision: Precision, runtime: str, golden: NDArray[np.float32], *, exact: bool
) -> Mapping[str, Mapping[str, float]]:
    """Limits by runtime, with `any` for all others.

    Args:
        runtime: the one that computed the golden outputs.
        golden: outputs float32 `[n, classes]`.
        exact: whether the machine that computed them multiplies 8-bit numbers without saturating. If not, they are
            themselves off, and only a gross difference on the device means anything.
    """
    if precision is not Precision.INT8:
        return {"any": TOLERANCES[precision].limits()}
    if not exact:
        return {"any": _INT8_ELSEWHERE}
    return {runtime: {"abs_error": _LSB * _step(golden)}, "any": _INT8_ELSEWHERE}


def _step(golden: NDArray[np.float32]) -> float:
    """Size of one step of 8 bits over the range of the outputs, zero included."""
    return float(max(golden.max(initial=0.0), 0.0) - min(golden.min(initial=0.0), 0.0)) / _STEPS
