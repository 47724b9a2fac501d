"""Reasons why an INT8 file takes longer than its FP32 one: the operators that lose time, why, and what to do.

Operators of the INT8 graph, as ONNX Runtime runs it, are joined to parts: every integer kernel is one, and so is every
stretch of float operators and conversions between integer kernels. A part is held against the operators of the FP32
graph that do the same (`profile.diff`); what it takes longer is what INT8 costs there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from compress.core.artifact import Artifact, Format, Precision
from compress.core.quantities import Above, Amount
from compress.profile.diff import matched, plain_name
from compress.profile.layer import LayerTime, Settings, Source
from compress.profile.onnx_work import named_model
from compress.support.scratch import scratch_folder

if TYPE_CHECKING:
    from compress.core.target import Target

__all__ = ["Slowdown", "Slower", "advice", "explain", "slow_parts"]

_SETTINGS = Settings(runs=60, seconds=1.0)
_SHOWN = 5
_WORTH_SAYING = 0.05
"""Of what all parts lose together; smaller ones are noise and detail."""

_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_LAYOUT = frozenset({"Transpose", "ReorderInput", "ReorderOutput"})
_INTEGER = frozenset({"QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"})
_NEITHER = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "NhwcMaxPool"})
"""They take integers and floats alike, and join nothing."""

_CLEARLY = 0.5
"""Share by which a kernel has to be slower for its layer to be better off in float, where it needs conversions: those
took a quarter of a 16-channel convolution's time (ONNX Runtime 1.31, AVX2)."""

_IN_FLOAT = "computed in float"

_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul", "ConvTranspose"})


@dataclass(frozen=True)
class Slowdown:
    """A part of the INT8 graph that takes longer than the same part in FP32.

    Attributes:
        name: of the layer, or of the float operator in it.
        operators: kinds as they run, with how many: `2 DequantizeLinear, Softplus`.
        int8_ms, fp32_ms: medians for the whole batch; 0 in FP32 for what is fused into something else there.
        cause: in words.
        float_layers: that need to be left in float for the part not to be converted, or computed in integers.
    """

    name: str
    operators: str
    int8_ms: Amount
    fp32_ms: Amount
    cause: str
    float_layers: tuple[str, ...] = ()

    @property
    def lost_ms(self) -> float:
        return self.int8_ms - self.fp32_ms


@dataclass(frozen=True)
class Slower:
    """An INT8 file that is slower here than the FP32 one.

    Attributes:
        stage: that wrote it.
        against: stage of the FP32 file.
        ratio: of their times, raced.
        parts: where the time goes, worst first.
        advice: what to do, each with what to type.
    """

    stage: str
    against: str
    ratio: Above
    parts: tuple[Slowdown, ...]
    advice: tuple[str, ...]


def explain(
    int8: tuple[str, Artifact],
    fp32: tuple[str, Artifact],
    ratio: float,
    *,
    quantizer: str | None,
    threads: int,
    target: Target,
) -> Slower:
    """Profile both files and say what the first loses.

    Args:
        int8, fp32: stage name and ONNX file.
        ratio: of their times, measured before.
        quantizer: stage of the recipe that chose what is quantized; None where the user brought the integers.

    Raises:
        StageError: ONNX Runtime refuses a file.
    """
    from compress.profile.readers.onnx import record

    settings = Settings(threads, None, _SETTINGS.runs, _SETTINGS.seconds)
    slow, quick = (record(Source.of(artifact), settings).layers for _, artifact in (int8, fp32))
    stored = onnx.load(int8[1].path, load_external_data=False)
    parts = slow_parts(slow, quick, _as_run(int8[1], threads), stored)
    weighted = sum(node.op_type in _WEIGHTED for node in stored.graph.node)
    return Slower(int8[0], fp32[0], ratio, parts, advice(parts, weighted, quantizer, target))


def slow_parts(
    int8: Sequence[LayerTime], fp32: Sequence[LayerTime], run: onnx.ModelProto, stored: onnx.ModelProto
) -> tuple[Slowdown, ...]:
    """The parts that lose time, worst first, small ones left out.

    Args:
        int8, fp32: profiles of the two files.
        run: the INT8 graph as ONNX Runtime runs it.
        stored: as it is stored, with the names of the weights.
    """
    partner = matched(int8, fp32)
    float_ms = {int8[here].name: fp32[there].median_ms for here, there in partner.items()}
    times = {layer.name: layer for layer in int8}
    graph = _Graph(run, layer_names(stored))
    ran = [tuple(name for name in nodes if name in times) for nodes in graph.parts()]
    parts = [graph.slowdown(nodes, times, float_ms) for nodes in ran if nodes]
    losing = sorted((part for part in parts if part.lost_ms > 0), key=lambda part: -part.lost_ms)
    least = _WORTH_SAYING * sum(part.lost_ms for part in losing)
    return tuple(part for part in losing[:_SHOWN] if part.lost_ms >= least)


def layer_names(stored: onnx.ModelProto) -> dict[str, str]:
    """Layer by name of the node that has its weight: `layer1.conv` for `layer1.conv.weight`."""
    makers = {name: node for node in stored.graph.node for name in node.output}
    constants = {tensor.name for tensor in stored.graph.initializer}
    names = {}
    for node in stored.graph.node:
        if node.op_type not in _WEIGHTED or len(node.input) < 2:
            continue
        weight = node.input[1]
        while weight not in constants and weight in makers and makers[weight].input:
            weight = makers[weight].input[0]
        if weight in constants:
            names[node.name] = weight.rpartition(".")[0] or node.name
    return names


class _Graph:
    """The INT8 graph as it runs."""

    def __init__(self, model: onnx.ModelProto, layers: Mapping[str, str]) -> None:
        self._nodes = {node.name: node for node in model.graph.node}
        self._makers = {name: node.name for node in model.graph.node for name in node.output if name}
        self._readers: dict[str, list[str]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node.name)
        self._layers = layers
        self._shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}

    def parts(self) -> list[tuple[str, ...]]:
        """Names of the nodes of every part, each in the order of running."""
        seen: set[str] = set()
        groups = []
        for name in self._nodes:
            if name not in seen:
                members = self._connected(name)
                seen |= members
                groups.append(tuple(other for other in self._nodes if other in members))
        return groups

    def slowdown(self, nodes: Sequence[str], times: Mapping[str, LayerTime], float_ms: Mapping[str, float]) -> Slowdown:
        """A part with what it takes and why."""
        kinds = [times[name].op for name in nodes]
        int8_ms = sum(times[name].median_ms for name in nodes)
        fp32_ms = sum(float_ms.get(name, 0.0) for name in nodes)
        if len(nodes) == 1 and _is_integer(kinds[0]):
            name, cause, layers = self._kernel(nodes[0], kinds[0])
            layers = layers if int8_ms - fp32_ms > _CLEARLY * fp32_ms else ()
        else:
            name, cause, layers = self._stretch(nodes, kinds)
        return Slowdown(name, _counted(kinds), int8_ms, fp32_ms, cause, layers)

    def _connected(self, name: str) -> set[str]:
        """The part that a node belongs to."""
        if not self._joins(name):
            return {name}
        members, front = {name}, [name]
        while front:
            for other in self._neighbours(front.pop()):
                if other not in members and self._joins(other):
                    members.add(other)
                    front.append(other)
        return members

    def _neighbours(self, name: str) -> Iterable[str]:
        node = self._nodes[name]
        yield from (self._makers[value] for value in node.input if value in self._makers)
        for value in node.output:
            yield from self._readers.get(value, ())

    def _joins(self, name: str) -> bool:
        op = self._nodes[name].op_type
        return not (_is_integer(op) or op in _NEITHER)

    def _stretch(self, nodes: Sequence[str], kinds: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
        """Name, cause and layers to leave in float of what is computed in float, or only converted."""
        inside = [name for name in nodes if self._nodes[name].op_type not in _CONVERSIONS | _LAYOUT]
        around = self._layers_around(nodes)
        if not inside:
            beside = f" beside {', '.join(around)}" if around else ""
            return plain_name(nodes[0]), f"conversions between float, integers and layouts{beside}", ()
        ops = [self._nodes[name].op_type for name in inside]
        converted = sum(kind in _CONVERSIONS for kind in kinds)
        cause = f"{_told(ops)}, {_IN_FLOAT}, with {converted} conversions between float and integers"
        return plain_name(inside[0]), cause, around

    def _kernel(self, name: str, op: str) -> tuple[str, str, tuple[str, ...]]:
        layer = self._layers.get(plain_name(name), plain_name(name))
        kind = "depthwise convolution" if self._depthwise(name) else op
        known = (layer,) if plain_name(name) in self._layers else ()
        return layer, f"{kind}: the integer kernel is slower here than the float one", known

    def _depthwise(self, name: str) -> bool:
        node = self._nodes[name]
        if node.op_type != "QLinearConv":
            return False
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        return groups > 1

    def _layers_around(self, nodes: Sequence[str]) -> tuple[str, ...]:
        """Layers with weights whose integers are converted here."""
        beside = [other for name in nodes for other in self._neighbours(name) if other not in nodes]
        known = [self._layers[plain_name(name)] for name in beside if plain_name(name) in self._layers]
        return tuple(dict.fromkeys(known))


def _told(ops: Sequence[str]) -> str:
    """Describe operators that stay in float."""
    if "Pad" in ops:
        return "Pad (padding that a convolution does itself costs nothing)"
    if {"HardSigmoid", "Mul"} <= set(ops) or "HardSwish" in ops:
        return f"HardSwish, which has no integer kernel ({_counted(ops)})"
    return _counted(ops)


def _is_integer(op: str) -> bool:
    return op.startswith("QLinear") or op in _INTEGER


def _counted(kinds: Sequence[str]) -> str:
    """`2 DequantizeLinear, Softplus`."""
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in counts.items())


def _as_run(artifact: Artifact, threads: int) -> onnx.ModelProto:
    """The graph with the names that its profile has."""
    from compress.formats.onnx.runtime import open_session

    with scratch_folder() as folder:
        optimized = folder / "optimized.onnx"
        open_session(named_model(artifact.path, folder), threads=threads, optimized=optimized)
        return onnx.load(optimized)


def advice(parts: Sequence[Slowdown], weighted: int, quantizer: str | None, target: Target) -> tuple[str, ...]:
    """Advice that applies to this network and this target."""
    named = list(dict.fromkeys(layer for part in parts for layer in part.float_layers))
    told = []
    if named and quantizer is not None:
        few = len(named) < math.ceil(weighted / 2)
        told.append(
            f"leave these layers in float: stage.{quantizer}.keep_float=[{','.join(named)}]"
            if few
            else f"most layers lose by INT8 on this processor: precision={_best_float(target)}"
        )
    if any(_IN_FLOAT in part.cause for part in parts) and _offers_tflite(target):
        told.append("or another runtime, which has integer kernels for more operators: a .tflite file (to_tflite)")
    return (*told, f"kernels differ between processors: {target.title} itself tells (python -m compress.device)")


def _best_float(target: Target) -> Precision:
    fp16 = target.precisions.get(Precision.FP16)
    return Precision.FP16 if fp16 is not None and fp16.value else Precision.FP32


def _offers_tflite(target: Target) -> bool:
    support = target.formats.get(Format.TFLITE)
    return support is not None and support.value
