"""Bottleneck of a layer: the limit of the machine that alone would take the largest time.

    compute    operations / peak         arithmetic
    bandwidth  bytes / bandwidth         moving weights and activations
    launch     launch_us                 starting the layer: dispatch, and waiting for its threads
    transfer   the layer is a copy between host and device

This is the roofline model with a third roof, the fixed cost of starting. No threshold is involved: a large matrix
product lies orders of magnitude on one side of the ridge, an addition of large tensors (1/12 operation a byte) on the
other, and a handful of numbers is below the cost of a start whatever is done with them. Where two limits are within
a factor of two of one another either answer is right. The layer's own measured time does not enter, so noise cannot
change a class; it weighs the layers when the class of the whole model is asked for.

For the model the times of its layers are added up by class. What a call takes beyond all of its layers is the
runtime's own work between them and counts as launch, up to what starting that many layers is known to cost: the rest
may be a neighbour's load on the machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from compress.core.artifact import Precision
from compress.profile.layer import LayerTime
from compress.profile.machine import MachineLimits

__all__ = ["Bottleneck", "bound_ms", "classify", "classify_model", "layer_advice", "model_advice"]

_FAR_BELOW = 0.25
"""Kernels reach half to nearly all of the roofline on shapes that suit them; below a quarter they are to blame."""


class Bottleneck(str, Enum):
    """Limit of the machine that a layer meets first."""

    COMPUTE = "compute"
    BANDWIDTH = "bandwidth"
    LAUNCH = "launch"
    TRANSFER = "transfer"

    def __str__(self) -> str:
        return self.value


def classify(layer: LayerTime, limits: MachineLimits) -> Bottleneck:
    """The limit of one layer."""
    if layer.transfer:
        return Bottleneck.TRANSFER
    seconds = _seconds(layer, limits)
    return max(seconds, key=seconds.__getitem__)


def bound_ms(layer: LayerTime, limits: MachineLimits) -> float:
    """The shortest time in which the machine could do the layer's work."""
    return 1000 * max(_seconds(layer, limits).values())


def classify_model(
    layers: Iterable[tuple[LayerTime, Bottleneck]], overhead_ms: float, launch_us: float
) -> tuple[Bottleneck, float]:
    """The class that most of the time goes to, and its share of it.

    Args:
        overhead_ms: what a call takes beyond the sum of its layers.
    """
    spent = dict.fromkeys(Bottleneck, 0.0)
    count = 0
    for layer, kind in layers:
        spent[kind] += layer.median_ms
        count += 1
    spent[Bottleneck.LAUNCH] += min(max(overhead_ms, 0.0), count * launch_us / 1000)
    total = sum(spent.values())
    kind = max(spent, key=spent.__getitem__)
    return kind, spent[kind] / total if total else 0.0


def layer_advice(layer: LayerTime, kind: Bottleneck, limits: MachineLimits) -> str:
    """Advice about one layer."""
    words = _LAYER[kind]
    if layer.precision is Precision.INT8:
        words = _LAYER_INT8.get(kind, words)
    if kind is not Bottleneck.TRANSFER and layer.median_ms > 0:
        reached = bound_ms(layer, limits) / layer.median_ms
        if reached < _FAR_BELOW:
            return f"at {reached:.0%} of the roofline, so the kernel is the limit: try another runtime; {words}"
    return words


def model_advice(kind: Bottleneck, share: float, reached: float, precision: Precision, batch: int) -> str:
    """Advice about the whole model, in a sentence.

    Args:
        share: of the time, in layers of this class.
        reached: the time that the machine's limits allow, over the time it takes.
    """
    words = _MODEL[kind]
    if precision is Precision.INT8:
        words = _MODEL_INT8.get(kind, words)
    if kind is Bottleneck.LAUNCH and batch > 1:
        words = "fuse or remove nodes (optimize_graph), or take a larger batch still"
    found = f"{share:.0%} of the time is in layers bound by {_TITLE[kind]}"
    if kind is not Bottleneck.TRANSFER and reached < _FAR_BELOW:
        found += f", at {reached:.0%} of what the machine could do, so try another runtime too"
    return f"{found}: {words}"


_TITLE = {
    Bottleneck.COMPUTE: "arithmetic",
    Bottleneck.BANDWIDTH: "memory bandwidth",
    Bottleneck.LAUNCH: "starting them and waiting",
    Bottleneck.TRANSFER: "copies between host and device",
}

_LAYER = {
    Bottleneck.COMPUTE: "quantize to INT8, or cut channels",
    Bottleneck.BANDWIDTH: "fuse with its neighbour, or store in fewer bits (INT8, FP16)",
    Bottleneck.LAUNCH: "costs a start and little else: fuse, remove or batch",
    Bottleneck.TRANSFER: "pin host memory, overlap with compute, send uint8",
}

_LAYER_INT8 = {
    Bottleneck.COMPUTE: "already INT8: fewer channels (structured pruning) or more threads",
    Bottleneck.BANDWIDTH: "already INT8: fuse with its neighbour, or fewer channels",
}

_MODEL = {
    Bottleneck.COMPUTE: "quantize (precision=int8), prune channels (structured), or use more threads",
    Bottleneck.BANDWIDTH: "fuse elementwise layers into their neighbours (optimize_graph), and quantize: INT8 moves a "
    "quarter of the bytes",
    Bottleneck.LAUNCH: "fuse or remove nodes (optimize_graph), and batch several samples in a call",
    Bottleneck.TRANSFER: "pin host memory, overlap copies with computing on two streams, send uint8 images instead of "
    "float32, and batch",
}

_MODEL_INT8 = {
    Bottleneck.COMPUTE: "it is INT8 already, so prune channels (structured) or use more threads",
    Bottleneck.BANDWIDTH: "it is INT8 already, so fuse layers (optimize_graph), prune channels (structured) or batch",
}


def _seconds(layer: LayerTime, limits: MachineLimits) -> dict[Bottleneck, float]:
    roof = limits.roofline(layer.precision)
    return {
        Bottleneck.COMPUTE: roof.computing(layer.operations),
        Bottleneck.BANDWIDTH: roof.moving(layer.bytes),
        Bottleneck.LAUNCH: limits.launch_us / 1e6,
    }
