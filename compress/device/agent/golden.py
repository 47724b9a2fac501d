"""Compare a model's outputs with those of the machine that made the bundle."""

import math
from typing import Any, Dict, Optional

from .golden_file import read_golden
from .values import Array, Json

NEGLIGIBLE = 1e-6  # a difference of logits that moves no softmax output by more than itself


def compare(expected: Array, found: Array, tolerance: Dict[str, float]) -> Json:
    """Measure how far `found` is from `expected`, with the reason it is too far (None if it is not)."""
    import numpy

    if found.shape != expected.shape:
        return {"passed": False, "reason": "outputs have shape %s, not %s" % (found.shape, expected.shape)}
    if not numpy.all(numpy.isfinite(found)):
        return {"passed": False, "reason": "outputs have NaN or infinite values"}
    if not numpy.all(numpy.isfinite(expected)):
        return {"passed": False, "reason": "the golden outputs have NaN or infinite values"}
    exact = expected.astype("float64")
    error = found.astype("float64") - exact
    largest, peak = float(numpy.max(numpy.abs(error))), float(numpy.max(numpy.abs(exact)))
    noise, signal_power = float(numpy.sum(error**2)), float(numpy.sum(exact**2))
    sqnr = 10 * math.log10(signal_power / noise) if noise and signal_power else None
    agreement = float(numpy.mean(expected.argmax(axis=1) == found.argmax(axis=1)))
    reason = None
    if largest > NEGLIGIBLE:
        reason = violation(tolerance, largest, largest / peak if peak else math.inf, sqnr)
    return {
        "passed": reason is None,
        "reason": reason,
        "identical": bool(numpy.array_equal(expected, found)),
        "max_abs_error": largest,
        "sqnr_db": sqnr,
        "agreement": agreement,
        "samples": len(expected),
    }


def violation(tolerance: Dict[str, float], absolute: float, relative: float, sqnr: Optional[float]) -> Optional[str]:
    """Say which of the limits `abs_error`, `relative_error`, `sqnr_db` is broken."""
    text = "largest difference is %.3g%s, allowed %.3g"
    if absolute > tolerance.get("abs_error", math.inf):
        return text % (absolute, "", tolerance["abs_error"])
    if relative > tolerance.get("relative_error", math.inf):
        return text % (relative, " of the largest output", tolerance["relative_error"])
    if sqnr is not None and sqnr < tolerance.get("sqnr_db", -math.inf):
        return "signal-to-noise ratio is %.1f dB, at least %.1f dB wanted" % (sqnr, tolerance["sqnr_db"])
    return None


def check_golden(runner: Any, folder: str, manifest: Json, model: Json) -> Json:
    """Compare the outputs with the maker's; the tolerance is the one for this runtime."""
    import numpy

    inputs, expected = read_golden(folder, manifest, model)
    step = runner.batch or len(inputs)
    parts = [numpy.array(runner.logits(inputs[i : i + step])) for i in range(0, len(inputs), step)]
    limits = model["tolerance"]
    return compare(expected, numpy.concatenate(parts), limits.get(runner.family) or limits["any"])
