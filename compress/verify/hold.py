"""Hold a stage to its promise: the output computes what the input does, on calibration images, as its runtime runs it.

    form      the file as its format's specification reads it, against the artifact it was made from
    runtime   an INT8 ONNX file as ONNX Runtime fuses it, against the same file run operator by operator

Two forms of an INT8 network are compared in steps of the output (LSB): decibels that are plenty against FP32 hide a
wrong pad constant. What fails names the first layer that differs.
"""

from __future__ import annotations

import filecmp
from typing import TYPE_CHECKING

from compress.core.artifact import Format, Precision
from compress.core.errors import DeviceMissing, ParityError
from compress.formats.parity import Tolerance, first_images
from compress.verify.form import outputs, problem, require_equal, worst
from compress.verify.fused import first_wrong_kernel, judgeable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.core.artifact import Artifact
    from compress.core.stage import Context, Stage
    from compress.core.target import Target

__all__ = ["hold"]

_FUSED = Tolerance(mean_lsb=1.0)
"""Correct fused kernels round a code here and there to its neighbour: 0.12 LSB at the logits of ResNet-20, 0.13 of
ResNet-44 (ONNX Runtime 1.31). A wrong average pooling gives 9 to 44."""

_SPREAD = Tolerance(sqnr_db=15.0)
"""Where each kernel is right by itself: deep networks of many small channels spread a step's rounding to 3.6 LSB at the
logits (a MobileNetV3-Small with activations equalized), as `parity.TOLERANCES` knows."""

_ONNXRUNTIME = "onnxruntime"


def hold(stage: Stage, before: Artifact, after: Artifact, context: Context, *, exact_int8: bool) -> None:
    """Compare `after`, which `stage` made of `before`, where the stage promises equality; else do nothing.

    Files of a stage that fails are removed. What only a device can run is not compared here.

    Args:
        exact_int8: this machine multiplies 8-bit integers without saturating.

    Raises:
        ParityError: they differ; names the first layer that does.
    """
    samples = stage.equal_on()
    if not samples or before.deferred or after.deferred or _same_file(before, after):
        return
    images = list(first_images(context.splits.calibration, samples))
    try:
        as_written = require_equal(before, after, images)
        if _runs_on_onnxruntime(after, context.target):
            _require_equal_when_fused(after, images, as_written, context, exact_int8=exact_int8)
    except DeviceMissing:
        return
    except ParityError as error:
        _remove(after)
        raise ParityError(f"stage {context.name!r}: {error.problem}", fix=error.fix) from error


def _require_equal_when_fused(
    artifact: Artifact,
    images: list[NDArray[np.float32]],
    as_written: list[NDArray[np.float32]],
    context: Context,
    *,
    exact_int8: bool,
) -> None:
    model = judgeable(artifact, exact_int8=exact_int8)
    expected = as_written if exact_int8 else _answers(model, images, fused=False)
    computed = _answers(model, images, fused=True)
    found = problem(expected, computed, _FUSED)
    if found is None:
        return
    kernel = first_wrong_kernel(model, worst(expected, computed, images))
    if kernel is None and problem(expected, computed, _SPREAD) is None:
        context.progress.log(
            f"{context.name}: ONNX Runtime's fused kernels and the file differ: {found}; every kernel by itself is "
            "within one step, and later layers spread its rounding"
        )
        return
    raise ParityError(
        f"ONNX Runtime's fused kernels do not compute what the file says on {sum(map(len, images))} samples: {found}"
        f"{f'; first at {kernel}' if kernel else ''}; it was not kept",
        fix="leave that layer in float: stage.<the stage that quantizes>.keep_float=[<layer>]",
    )


def _answers(model: bytes, images: list[NDArray[np.float32]], *, fused: bool) -> list[NDArray[np.float32]]:
    from compress.formats.onnx.runtime import OnnxRunner, open_session
    from compress.formats.runtimes import usable_cores

    return outputs(OnnxRunner(open_session(model, threads=usable_cores(), fused=fused, timed=False)), images)


def _runs_on_onnxruntime(artifact: Artifact, target: Target) -> bool:
    deployment = target.deployment.get(artifact.format)
    is_int8 = artifact.precision is Precision.INT8
    return is_int8 and deployment is not None and deployment.runtime == _ONNXRUNTIME


def _same_file(before: Artifact, after: Artifact) -> bool:
    """Tell whether a file was only handed on."""
    files = Format.TORCH not in (before.format, after.format) and before.format is after.format
    return files and filecmp.cmp(before.path, after.path, shallow=False)


def _remove(artifact: Artifact) -> None:
    if artifact.format is not Format.TORCH:
        for path in (artifact.path, *artifact.attachments):
            path.unlink(missing_ok=True)
