"""Refusing what only ONNX Runtime executes on devices that run something else."""

from __future__ import annotations

from compress.core.artifact import Precision
from compress.core.errors import Refusal
from compress.core.target import Target

__all__ = ["require_float", "require_onnxruntime"]

_PLACEMENT = "onnxruntime"


def require_onnxruntime(target: Target, *, stage: str, operators: str) -> None:
    """Refuse `stage` when the target's INT8 placement is not ONNX Runtime's, naming the runtime it has.

    Args:
        operators: those that only ONNX Runtime executes.
    """
    if target.int8 is not None and target.int8.placement == _PLACEMENT:
        return
    raise Refusal(
        f"stage {stage!r}: it writes {operators}, which ONNX Runtime executes and {target.title}'s runtime, "
        f"{target.runtime.value}, does not ({target.runtime.source})",
        fix=f"~stage.{stage} precision={_instead(target)}",
    )


def require_float(precision: Precision, *, stage: str) -> None:
    """Refuse an input that is not FP32: its weights are rounded already."""
    if precision is not Precision.FP32:
        raise Refusal(
            f"stage {stage!r} quantizes fp32 weights, but its input is already {precision}",
            fix=f"stage.{stage}.source=<the stage that exports it in fp32>, or ~stage.{stage}",
        )


def _instead(target: Target) -> Precision:
    """The smallest precision the device computes in."""
    for precision in (Precision.INT8, Precision.FP16):
        known = target.precisions.get(precision)
        if known is not None and known.value:
            return precision
    return Precision.FP32
