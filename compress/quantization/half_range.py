"""Values that float16 cannot hold: constants, which saturate, and activations, which become infinite."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.fx.node import Argument

from compress.core.artifact import Precision
from compress.core.errors import StageError
from compress.formats.parity import TOLERANCES, FidelityMeter
from compress.graph.capture import bind, constant, layer_name
from compress.quantization.half import FLOAT16_MAX
from compress.support.torch_internals import OpOverload

__all__ = ["Beyond", "check_half", "overflows", "saturated"]

_SHOWN = 3

_ROUNDS_TO_INFINITY = 65520.0
"""Halfway between the largest finite float16 and the next step, 65536 (IEEE 754-2008, round to nearest)."""

_STATISTICS = ("running_mean", "running_var")
"""Buffers that are weights: what they hold is scaled, not compared."""


@dataclass(frozen=True)
class Beyond:
    """A constant or an activation beyond float16.

    Attributes:
        layer: the constant's name, or the layer as the user knows it.
        value: of largest magnitude.
    """

    layer: str
    value: float

    def __str__(self) -> str:
        return f"{self.layer!r} ({self.value:.4g})"


def saturated(graph: fx.GraphModule) -> tuple[fx.GraphModule, tuple[Beyond, ...]]:
    """A copy of a captured graph whose constants end at +-65504, and which those were; `graph` itself if none.

    Buffers and numbers in the code that are finite and larger: fill values of masks (`-1e9`), as a rule. Parameters and
    statistics of BatchNorm stay, since a layer with other weights is another layer; infinities stay what they are.
    """
    names = [str(node.target) for node in graph.graph.find_nodes(op="get_attr") if _is_large_constant(graph, node)]
    literals = [node for node in graph.graph.nodes if node.op == "call_function" and _large_numbers(node)]
    if not names and not literals:
        return graph, ()
    copied = copy.deepcopy(graph)
    beyond: list[Beyond] = []
    for name in dict.fromkeys(names):
        value = _attribute(copied, name)
        beyond.append(Beyond(name, _largest_finite(value)))
        bind(copied, name, torch.where(value.isinf(), value, value.clamp(-FLOAT16_MAX, FLOAT16_MAX)), trainable=False)
    for node in copied.graph.nodes:
        numbers = _large_numbers(node) if node.op == "call_function" else []
        if numbers:
            beyond.append(Beyond(layer_name(node), max(numbers, key=abs)))
            _saturate_call(node)
    copied.recompile()
    return copied, tuple(beyond)


def overflows(graph: fx.GraphModule, batches: Iterable[NDArray[np.float32]]) -> tuple[Beyond, ...]:
    """The layers whose float32 outputs would round to infinity in float16, in execution order.

    Args:
        graph: captured, in float32.
        batches: images `[N, C, H, W]`.
    """
    ranges = _Ranges(graph)
    with torch.inference_mode():
        for images in batches:
            ranges.run(torch.from_numpy(images))
    largest: dict[str, float] = {}
    for node, value in ranges.largest.items():
        if abs(value) >= _ROUNDS_TO_INFINITY:
            name = layer_name(node)
            largest[name] = max(largest.get(name, 0.0), value, key=abs)
    return tuple(Beyond(name, value) for name, value in largest.items())


def check_half(
    source: nn.Module,
    half: nn.Module,
    graph: fx.GraphModule | None,
    constants: Sequence[Beyond],
    batches: Sequence[NDArray[np.float32]],
) -> dict[str, str]:
    """Compare the float16 model with its source on images; what is to be said about its range, by topic.

    Args:
        graph: of the source, with its constants saturated; None where there is none to name layers by.
        constants: those that were saturated.

    Raises:
        StageError: they differ by more than float16's tolerance, and something is beyond its range: names it.
    """
    beyond = overflows(graph, batches) if graph is not None else ()
    problem = _difference(source, half, batches) if beyond or constants else None
    if problem is not None:
        first = (*beyond, *constants)[0]
        kind = "layer" if beyond else "constant"
        reaches = "reaches" if beyond else "holds"
        raise StageError(
            f"float16 ends at {FLOAT16_MAX:.0f}, {kind} {first.layer!r} {reaches} {first.value:.4g}"
            f"{' on calibration images' if beyond else ''}: {problem}",
            fix="precision=fp32",
        )
    notes = [f"constants that end at +-{FLOAT16_MAX:.0f}: {', '.join(map(str, constants))}"] if constants else []
    if beyond:
        notes.append(f"infinite in float16 without harm on calibration images: {', '.join(map(str, beyond[:_SHOWN]))}")
    return {"float16": "; ".join(notes)} if notes else {}


def _difference(source: nn.Module, half: nn.Module, batches: Sequence[NDArray[np.float32]]) -> str | None:
    """Say how the outputs differ, if they differ by more than float16's tolerance."""
    meter, tolerance = FidelityMeter(), TOLERANCES[Precision.FP16]
    with torch.inference_mode():
        for images in batches:
            expected, actual = (module(torch.from_numpy(images)).numpy() for module in (source, half))
            if not np.isfinite(actual).all() and np.isfinite(expected).all():
                return "the outputs are not finite"
            meter.update(expected, actual)
    return tolerance.violation(meter)


class _Ranges(fx.Interpreter):
    """Notes the finite value of largest magnitude of every call."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.largest: dict[fx.Node, float] = {}

    def run_node(self, node: fx.Node) -> object:
        result = super().run_node(node)
        if node.op == "call_function" and isinstance(result, torch.Tensor) and result.is_floating_point():
            self.largest[node] = max(self.largest.get(node, 0.0), _largest_finite(result), key=abs)
        return result


def _is_large_constant(graph: fx.GraphModule, node: fx.Node) -> bool:
    value = constant(graph, node)
    name = str(node.target)
    if value is None or not value.is_floating_point() or name in dict(graph.named_parameters()):
        return False
    return not name.endswith(_STATISTICS) and abs(_largest_finite(value)) > FLOAT16_MAX


def _largest_finite(values: torch.Tensor) -> float:
    finite = values.detach()[values.isfinite()]
    if not finite.numel():
        return 0.0
    low, high = float(finite.min()), float(finite.max())
    return low if -low > high else high


def _attribute(graph: fx.GraphModule, name: str) -> torch.Tensor:
    owner, _, attribute = name.rpartition(".")
    value = getattr(graph.get_submodule(owner), attribute)
    assert isinstance(value, torch.Tensor)
    return value.detach()


def _large_numbers(node: fx.Node) -> list[float]:
    """Finite numbers beyond float16 that the call computes with, rather than counts by."""
    output = node.meta.get("val")
    if not isinstance(node.target, OpOverload) or not _is_float(output):
        return []
    values = [*node.args, *node.kwargs.values()]
    numbers = [
        float(value)
        for value in values
        if isinstance(value, (int, float)) and (isinstance(value, float) or _is_number(node, value))
    ]
    return [number for number in numbers if math.isfinite(number) and abs(number) > FLOAT16_MAX]


def _is_number(node: fx.Node, value: Argument) -> bool:
    """Tell whether an integer argument stands where the operator takes any number (`masked_fill(x, mask, -10**9)`)."""
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    assert isinstance(node.target, OpOverload)
    kinds = [argument.type.kind() for argument in node.target._schema.arguments]
    positions = [index for index, operand in enumerate(node.args) if operand is value]
    return any(kinds[index] in ("NumberType", "TensorType") for index in positions)


def _saturate_call(node: fx.Node) -> None:
    def end(value: Argument) -> Argument:
        if (isinstance(value, float) and math.isfinite(value)) or _is_number(node, value):
            assert isinstance(value, (int, float))
            return max(-FLOAT16_MAX, min(FLOAT16_MAX, value)) if abs(value) > FLOAT16_MAX else value
        return value

    node.args, node.kwargs = tuple(map(end, node.args)), {name: end(value) for name, value in node.kwargs.items()}


def _is_float(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
