"""The ranges an INT8 graph's integers span, beside the values that meet them: what is clipped, what is spent on air.

Read from the graph's explicit Q/DQ operators, so it does not matter who chose the ranges. Activations are those of the
first calibration images, each tensor summarised in a histogram of fixed size while it passes; the number of images and
the time are bounded. Weights are as stored, integer times scale.

SQNR is 10 log10(power / noise). Noise of an activation is its rounding and clipping, computed on the histogram; that of
a weight, whose float value is gone, is step^2 / 12 (Widrow, Kollar 2008, section 5).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from compress.core.artifact import Artifact
from compress.core.quantities import Amount, Count, Finite, Known, Share
from compress.core.stage import Split

if TYPE_CHECKING:
    import torch
    from torch import fx

    from compress.measure.streaming_histogram import StreamingHistogram

__all__ = ["Histogram", "TensorRange", "measure_ranges"]

_BINS = 64
_MOST_BINS = 4096  # of a document
_BATCH = 8
_KEPT = 12
"""Histograms handed on: those of the tensors with the lowest SQNR. Every tensor has its ranges."""


@dataclass(frozen=True)
class Histogram:
    """Counts of values: bin i is `[low + i * width, low + (i + 1) * width)`."""

    low: Finite
    width: Amount
    counts: Annotated[tuple[Count, ...], Field(min_length=1, max_length=_MOST_BINS)]


@dataclass(frozen=True)
class TensorRange:
    """One quantized tensor.

    Attributes:
        stage: whose graph it is in.
        name: the weight, or the layer whose output it is.
        channels: number of ranges; `low` and `high` are the widest of them.
        seen_low, seen_high: smallest and largest value met.
        clipped: share of values outside the range; None for a weight, whose stored values cannot be.
        samples: images the activation was met on; 0 for a weight.
    """

    stage: str
    name: str
    kind: Literal["weight", "activation"]
    channels: Count
    low: Finite
    high: Finite
    seen_low: Finite
    seen_high: Finite
    clipped: Share | None
    sqnr_db: Known
    samples: Count = 0
    histogram: Histogram | None = None


def measure_ranges(artifact: Artifact, split: Split, *, samples: int, seconds: float) -> tuple[TensorRange, ...]:
    """Ranges of every quantized tensor of an INT8 torch graph: weights, then activations, each in execution order.

    Args:
        split: the calibration split.
        samples: images looked at, at most.
        seconds: no batch is started after this long; one always is.
    """
    from torch import fx

    graph = artifact.module
    if not isinstance(graph, fx.GraphModule):
        return ()
    stage = artifact.history[-1]
    found = [*_weights(graph, stage), *_activations(graph, artifact, split, samples, seconds)]
    worst = set(sorted(range(len(found)), key=lambda place: found[place].sqnr_db)[:_KEPT])
    return tuple(row if place in worst else replace(row, histogram=None) for place, row in enumerate(found))


def _weights(graph: fx.GraphModule, stage: str) -> Iterator[TensorRange]:
    """Every constant behind a dequantize operator, but int32 biases."""
    import torch

    from compress.graph.capture import constant, parameter_name
    from compress.measure.streaming_histogram import StreamingHistogram

    for node in _calls(graph, "dequantize"):
        stored = constant(graph, node.args[0])
        if stored is None or stored.dtype is torch.int32:
            continue
        (scale, zero), bounds, axis = _grid(graph, node)
        shape = [-1 if axis == place else 1 for place in range(stored.ndim)]
        values = (stored.double() - zero.reshape(shape)) * scale.reshape(shape)
        histogram = StreamingHistogram()
        histogram.add(values, float(values.min()), float(values.max()))
        noise = float(scale.square().mean()) / 12
        yield TensorRange(
            stage=stage,
            name=parameter_name(node.args[0]) or node.name,
            kind="weight",
            channels=scale.numel(),
            low=float((scale * (bounds[0] - zero)).min()),
            high=float((scale * (bounds[1] - zero)).max()),
            seen_low=histogram.low,
            seen_high=histogram.high,
            clipped=None,
            sqnr_db=_decibels(float(values.square().mean()), noise),
            histogram=_coarse(histogram),
        )


def _activations(
    graph: fx.GraphModule, artifact: Artifact, split: Split, samples: int, seconds: float
) -> Iterator[TensorRange]:
    """Every tensor that a quantize operator takes, once."""
    seen, met = _passing(
        graph, split, samples, seconds, batch_size=artifact.fitting(_BATCH) if artifact.dynamic_batch else 1
    )
    for node, histogram in seen.items():
        (scale, zero), bounds, _ = _grid(graph, node)
        clipped, power, noise = _losses(histogram, float(scale), float(zero), bounds)
        yield TensorRange(
            stage=artifact.history[-1],
            name=_tensor_name(node.all_input_nodes[0]),
            kind="activation",
            channels=1,
            low=float(scale * (bounds[0] - zero)),
            high=float(scale * (bounds[1] - zero)),
            seen_low=histogram.low,
            seen_high=histogram.high,
            clipped=clipped,
            sqnr_db=_decibels(power, noise),
            samples=met,
            histogram=_coarse(histogram),
        )


def _passing(
    graph: fx.GraphModule, split: Split, samples: int, seconds: float, *, batch_size: int
) -> tuple[dict[fx.Node, StreamingHistogram], int]:
    """Histograms of what went into the first quantize operator of each tensor, and the number of images."""
    import torch
    from torch import fx

    from compress.measure.streaming_histogram import StreamingHistogram

    first = {node.args[0]: node for node in reversed(_calls(graph, "quantize"))}
    seen = {node: StreamingHistogram() for node in _calls(graph, "quantize") if first[node.args[0]] is node}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            if n in seen:
                values = self.env[n.all_input_nodes[0]]
                seen[n].add(values, float(values.min()), float(values.max()))
            return super().run_node(n)

    met, started = 0, time.perf_counter()
    with torch.no_grad():
        for batch in split.batches(min(samples, batch_size)):
            images = torch.from_numpy(batch.images[: samples - met])
            Watch(graph).run(images)
            met += len(images)
            if met >= samples or time.perf_counter() - started > seconds:
                break
    return seen, met


def _calls(graph: fx.GraphModule, name: str) -> list[fx.Node]:
    """Calls of `<name>_per_tensor` and `<name>_per_channel`, in execution order."""
    wanted = (f"{name}_per_tensor", f"{name}_per_channel")
    return [node for node in graph.graph.nodes if node.op == "call_function" and _operator(node) in wanted]


def _operator(node: fx.Node) -> str:
    return str(getattr(node.target, "overloadpacket", node.target)).rpartition(".")[2]


def _tensor_name(node: fx.Node) -> str:
    """The layer a tensor comes from, by its weight, and what was done to it since: `layer1.0.conv1, relu`."""
    from compress.graph.capture import layer_name

    source, since = node, ""
    while not (name := _weight_name(source)) and len(source.all_input_nodes) == 1:
        operator = _operator(source)
        since = since if "quantize" in operator else f", {operator}{since}"
        source = source.all_input_nodes[0]
    return f"{name}{since}" if name else layer_name(node)


def _weight_name(node: fx.Node) -> str:
    """The layer whose stored weight an operator multiplies by; empty if it has none."""
    from compress.graph.capture import parameter_name

    weight = node.args[1] if len(node.args) > 1 else None
    while isinstance(weight, type(node)) and _operator(weight).startswith("dequantize"):
        weight = weight.args[0]
    return (parameter_name(weight) or "").removesuffix(".weight")


def _grid(
    graph: fx.GraphModule, node: fx.Node
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[int, int], int | None]:
    """Scale and zero point (float64, `[]` or `[channels]`), smallest and largest integer, and the channels' axis."""
    import torch

    from compress.graph.capture import constant

    numbers = []
    for argument in node.args[1:3]:
        stored = constant(graph, argument)
        numbers.append(torch.tensor(argument, dtype=torch.float64) if stored is None else stored.double())
    per_channel = _operator(node).endswith("channel")
    axis, low, high = node.args[3:6] if per_channel else (None, *node.args[3:5])
    assert isinstance(low, int)
    assert isinstance(high, int)
    return (numbers[0], numbers[1]), (low, high), axis if isinstance(axis, int) else None


def _losses(
    histogram: StreamingHistogram, scale: float, zero: float, bounds: tuple[int, int]
) -> tuple[float, float, float]:
    """Share of values out of range, mean square of the values, and of their error."""
    centres, counts = histogram.centres()
    total = max(float(counts.sum()), 1.0)
    integers = (centres / scale).round() + zero
    kept = integers.clamp(*bounds)
    error = centres - (kept - zero) * scale
    clipped = float(counts[integers != kept].sum()) / total
    return clipped, float((counts * centres.square()).sum()) / total, float((counts * error.square()).sum()) / total


def _coarse(histogram: StreamingHistogram) -> Histogram:
    """`_BINS` bins over the values seen."""
    import torch

    centres, counts = histogram.centres()
    width = (histogram.high - histogram.low) / _BINS or 1.0
    places = ((centres - histogram.low) / width).long().clamp(0, _BINS - 1)
    summed = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, places, counts)
    return Histogram(histogram.low, width, tuple(int(count) for count in summed))


def _decibels(power: float, noise: float) -> float:
    if noise == 0 or power == 0:
        return math.inf
    return 10 * math.log10(power / noise)
