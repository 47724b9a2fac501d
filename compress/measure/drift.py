"""Drift of exported INT8 files from the INT8 graph they were made from, each in its own runtime.

Differences are given in LSB, the worth of one step of the output:

* where the network ends in integers, the scale of that last quantization;
* where it ends in float (a runtime that hands the logits over unrounded), the step that 8 bits would have on the
  reference's logits: (largest - smallest) / 255 over the samples compared, zero included.

Kernels sum in another order and round at other places, so a code flips here and there and later layers spread it; zero
is not to be expected, agreement is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.artifact import Artifact, Format
from compress.core.errors import StageError
from compress.core.quantities import Amount, Count, Magnitude, Share
from compress.core.stage import Progress, Split, Splits
from compress.formats.parity import reference_runner
from compress.formats.runtimes import load_for_answers
from compress.measure.boundary import int8_exact
from compress.measure.host import describe_host

if TYPE_CHECKING:
    from torch import fx

    from compress.formats.runner import Runner

__all__ = ["Drift", "measure_drift", "output_scale"]

_BATCH = 16
_STEPS = 255  # of 8 bits
_TRANSPARENT = ("view", "reshape", "flatten", "squeeze", "unsqueeze")
"""Operators between the last DQ and the output that do not change a value."""


@dataclass(frozen=True)
class Drift:
    """One file against its reference, over the first samples of the evaluation split.

    Attributes:
        stage: that wrote the file.
        reference: stage whose INT8 graph, run by PyTorch, it is compared with.
        runtime: of the file, with its version, and how it was run where its kernels saturate on this processor.
        lsb: worth of one step of the output, in units of the logits.
        lsb_from: `output scale` or `logit range`, see the module.
        max_lsb: largest difference of any logit, in steps.
        mean_lsb: mean absolute difference of all logits, in steps.
        agreement: share of samples with the same arg-max.
    """

    stage: str
    reference: str
    runtime: str
    lsb: Amount
    lsb_from: Literal["output scale", "logit range"]
    max_lsb: Magnitude
    mean_lsb: Magnitude
    agreement: Share
    samples: Count


def measure_drift(
    reference: Artifact,
    exported: Sequence[tuple[str, Artifact]],
    splits: Splits,
    samples: int,
    progress: Progress,
    recorded: NDArray[np.float32] | None = None,
) -> tuple[Drift, ...]:
    """Compare every file with the torch graph `reference` on the first `samples` of the evaluation split.

    Args:
        exported: stage name and file.
        recorded: logits of `reference` on the evaluation split, where they are known already.

    Raises:
        StageError: a file does not load or run, or gives other classes than the reference.
    """
    images = list(_images(splits.evaluation, samples, reference.fitting(_BATCH)))
    if recorded is None:
        run = load_for_answers(reference)
        tracked = progress.track(images, "INT8 reference outputs", len(images))
        exact = np.concatenate([run(batch) for batch in tracked])
    else:
        exact = np.array(recorded[: sum(len(batch) for batch in images)])
    scale = output_scale(reference)
    lsb = scale or _range_step(exact)
    return tuple(
        _compare(name, artifact, reference.history[-1], exact, images, lsb, from_scale=scale is not None)
        for name, artifact in progress.track(exported, "drift", len(exported))
    )


def output_scale(artifact: Artifact) -> float | None:
    """Scale of the quantization that a torch graph's output leaves by; None where it ends in float."""
    import torch

    if artifact.format is not Format.TORCH or not isinstance(artifact.module, torch.fx.GraphModule):
        return None
    (output,) = artifact.module.graph.find_nodes(op="output")
    node = output.all_input_nodes[0]
    while _operator(node) in _TRANSPARENT:
        node = node.all_input_nodes[0]
    scale = node.args[1] if _operator(node) == "dequantize_per_tensor" else None
    return float(scale) if isinstance(scale, (int, float)) else None


def _operator(node: fx.Node) -> str:
    return str(getattr(node.target, "overloadpacket", node.target)).rpartition(".")[2]


def _images(split: Split, samples: int, batch_size: int) -> Iterator[NDArray[np.float32]]:
    left = samples
    for batch in split.batches(min(samples, batch_size)):
        yield batch.images[:left]
        left -= len(batch.images)
        if left <= 0:
            return


def _range_step(logits: NDArray[np.float32]) -> float:
    """1 where all logits are zero: every difference then counts as it is."""
    width = float(max(logits.max(initial=0.0), 0.0)) - float(min(logits.min(initial=0.0), 0.0))
    return width / _STEPS or 1.0


def _compare(
    name: str,
    artifact: Artifact,
    reference: str,
    exact: NDArray[np.float32],
    images: Sequence[NDArray[np.float32]],
    lsb: float,
    *,
    from_scale: bool,
) -> Drift:
    run, runtime = _runner(artifact)
    given = np.concatenate([run(batch) for batch in images])
    if given.shape != exact.shape:
        raise StageError(f"{name!r} gives outputs {list(given.shape)}, its reference {list(exact.shape)}")
    steps = np.abs(given.astype(np.float64) - exact) / lsb
    return Drift(
        stage=name,
        reference=reference,
        runtime=runtime,
        lsb=lsb,
        lsb_from="output scale" if from_scale else "logit range",
        max_lsb=float(steps.max()),
        mean_lsb=float(steps.mean()),
        agreement=float((given.argmax(axis=1) == exact.argmax(axis=1)).mean()),
        samples=len(exact),
    )


def _runner(artifact: Artifact) -> tuple[Runner, str]:
    """Runner of a file, and its name. Saturated products would be this processor's drift and not the file's; that fused
    kernels keep to the file was held before (`compress.verify`), with weights that no processor saturates."""
    host = describe_host()
    if not int8_exact(artifact, host):
        run = reference_runner(artifact)
        return run, f"{run.name}, operator by operator: 8-bit products saturate here"
    run = load_for_answers(artifact)
    return run, run.name
