"""Two forms of one network, compared on images, each as its format's specification reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compress.core.artifact import Format, Precision
from compress.core.errors import ParityError
from compress.formats.parity import TOLERANCES, FidelityMeter, Tolerance, first_images, reference_runner
from compress.verify.locate import first_difference

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import fx

    from compress.core.artifact import Artifact
    from compress.core.stage import Split
    from compress.formats.runner import Runner

__all__ = ["outputs", "problem", "require_equal", "require_equal_graph", "worst"]

_WITHIN_TORCH = Tolerance(relative_error=1e-4)
"""Same kernels on both sides: folding rounds weights once more, 2e-6 to 1e-5 measured (`optimize.equivalence`)."""

_GRAPH_SAMPLES = 8


def require_equal(before: Artifact, after: Artifact, images: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Compare `after`, made from `before` by something that is not meant to change what is computed.

    Returns:
        What `after` gives for every batch.

    Raises:
        ParityError: they differ; names the first layer that does.
        StageError: a runtime refuses a file.
    """
    # One after the other: idle threads of a runtime look for work for a while, on the cores that the other needs.
    expected = outputs(reference_runner(before), images)
    computed = outputs(reference_runner(after), images)
    torch_only = before.format is after.format is Format.TORCH and before.precision is Precision.FP32
    found = problem(expected, computed, _WITHIN_TORCH if torch_only else TOLERANCES[before.precision])
    if found is None:
        return computed
    layer = first_difference(before, after, worst(expected, computed, images))
    raise ParityError(
        f"the {after.format} {'module' if after.format is Format.TORCH else 'file'} does not compute what its source "
        f"does on {sum(map(len, images))} samples: {found}{f'; first at {layer}' if layer else ''}; it was not kept"
    )


def require_equal_graph(before: Artifact, graph: fx.GraphModule, split: Split) -> None:
    """Hold an FP32 graph against the artifact that it captures or imports; an ONNX file is run by ONNX Runtime.

    Raises:
        ParityError: they differ; names the first layer that does.
    """
    from compress.graph.capture import static_batch_reason

    if static_batch_reason(graph) is not None:  # what could only be captured for one image is run so, too
        before = replace(before, dynamic_batch=False)
    made = replace(before, format=Format.TORCH, model=graph)
    if len(split):  # an empty one is the calibration's to refuse
        require_equal(before, made, list(first_images(split, _GRAPH_SAMPLES)))


def outputs(run: Runner, images: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Logits `[N, classes]` of every batch."""
    return [run(batch) for batch in images]


def problem(
    expected: list[NDArray[np.float32]], computed: list[NDArray[np.float32]], tolerance: Tolerance
) -> str | None:
    """Describe how far the logits of two forms are apart, where that is more than `tolerance`."""
    meter = FidelityMeter()
    for reference, candidate in zip(expected, computed, strict=True):
        meter.update(reference, candidate)
    text = tolerance.violation(meter)
    return text and f"{text} ({meter.result().agreement:.0%} equal top-1)"


def worst(
    expected: list[NDArray[np.float32]], computed: list[NDArray[np.float32]], images: list[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The image `[1, C, H, W]` on which the logits differ most."""
    errors = np.abs(np.concatenate(expected) - np.concatenate(computed)).max(axis=1)
    position = int(errors.argmax())
    return np.concatenate(images)[position : position + 1]
