"""Cost of a layer: multiply-accumulates, parameters, or milliseconds on the target.

A cost function is anything that takes a `LayerShape` and gives a number; the cost of a network is the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from compress.core.artifact import Precision
from compress.core.errors import ConfigError
from compress.core.roofline import ELEMENT_BYTES, Roofline, published
from compress.core.target import Target
from compress.pruning.shapes import LayerShape
from compress.support.plain_json import NotJson, parse_json
from compress.support.reading import read_text

__all__ = ["Cost", "Estimated", "Measured", "macs", "parameters", "read_layer_times", "total"]

Cost = Callable[[LayerShape], float]


def macs(shape: LayerShape) -> float:
    """Multiply-accumulates for one sample."""
    return shape.macs


def parameters(shape: LayerShape) -> float:
    """Weights of convolutions and linear layers; biases and normalisation are left out."""
    return shape.parameters


@dataclass(frozen=True)
class Estimated:
    """Milliseconds as the roofline model estimates them: the slower of arithmetic and memory.

    An estimate from the target's published peaks, far below what a runtime reaches, but in proportion: good for
    comparing layers, not for promising times.

    Attributes:
        roof: limits of the device.
        element_bytes: size of a weight or activation.
        lanes: channels the kernels compute at a time; a layer of 9 channels costs as much as one of 16.
    """

    roof: Roofline
    element_bytes: int
    lanes: int = 1

    @classmethod
    def of(cls, target: Target, precision: Precision, lanes: int) -> Estimated:
        """Estimate from the facts of the target.

        Raises:
            ConfigError: the target's peak at that precision is not known.
        """
        roof = published(target, precision)
        if roof is None:
            known = ", ".join(sorted(p.value for p in target.peak_flops)) or "none"
            raise ConfigError(
                f"the peak {precision} arithmetic of {target.title} is not known (known: {known}), "
                "so a latency budget cannot be estimated",
                fix="of=macs, or give measured layer times with layer_times=<file.json>",
            )
        return cls(roof, ELEMENT_BYTES[precision], lanes)

    def __call__(self, shape: LayerShape) -> float:
        arithmetic = self.roof.computing(2 * shape.macs * self._padding(shape))
        memory = self.roof.moving((shape.parameters + shape.elements) * self.element_bytes)
        return 1000 * max(arithmetic, memory)

    def _padding(self, shape: LayerShape) -> float:
        """Growth of the channels when they are filled up to whole vectors; the first layer's inputs never are."""
        if shape.groups > 1:
            return _filled(shape.outputs, self.lanes)
        inputs = _filled(shape.inputs, self.lanes) if shape.inputs >= self.lanes else 1.0
        return _filled(shape.outputs, self.lanes) * inputs


@dataclass(frozen=True)
class Measured:
    """Measured milliseconds of each unpruned layer, scaled as another cost does when the layer shrinks.

    Attributes:
        times_ms: by layer name; layers without one cost nothing.
        full: the unpruned layers.
    """

    times_ms: Mapping[str, float]
    full: Mapping[str, LayerShape]
    scaling: Cost

    def __call__(self, shape: LayerShape) -> float:
        whole = self.scaling(self.full[shape.name])
        if shape.name not in self.times_ms or whole == 0:
            return 0.0
        return self.times_ms[shape.name] * self.scaling(shape) / whole


def read_layer_times(path: Path, layers: Iterable[str]) -> dict[str, float]:
    """Milliseconds by layer from a JSON object `{"layer1.0.conv1": 0.31, ...}`.

    Raises:
        ConfigError: not such a file, or no layer of the network in it.
    """
    try:
        read: object = parse_json(read_text(path))
    except (OSError, NotJson) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"layer_times={path} cannot be read: {reason}", fix='write {"<layer>": <ms>, ...}') from error
    if not isinstance(read, dict) or not all(_is_time(value) for value in read.values()):
        raise ConfigError(f"layer_times={path} is not an object of milliseconds", fix='write {"<layer>": <ms>, ...}')
    names = list(layers)
    if not set(names) & read.keys():
        raise ConfigError(
            f"layer_times={path} names no layer of this model: it has {', '.join(list(read)[:3])}, ...",
            fix=f"use the model's names: {', '.join(names[:3])}, ...",
        )
    return {str(name): float(value) for name, value in read.items()}


def total(cost: Cost, shapes: Iterable[LayerShape]) -> float:
    """Cost of a network."""
    return sum(cost(shape) for shape in shapes)


def _filled(channels: int, lanes: int) -> float:
    return math.ceil(channels / lanes) * lanes / channels


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
