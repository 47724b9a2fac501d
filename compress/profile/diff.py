"""Two profiles layer by layer: which layers are the same ones, and which were fused away.

Layers are matched by name first. Exporters and runtimes rename, so what is left is matched by kind of operator in
order: the longest common run of kinds, in which `FusedConv` and `QLinearConv` are both a `Conv`. A layer without a
partner was fused where the other side has a layer whose name holds its own, or where its kind is one that runtimes
fuse and the layer before it is still there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from compress.profile.document import LayerProfile, Profile

__all__ = ["Pair", "compare", "matched", "plain_name"]

_KINDS = {
    "FusedConv": "Conv",
    "NhwcFusedConv": "Conv",
    "QLinearConv": "Conv",
    "ConvInteger": "Conv",
    "FusedGemm": "Gemm",
    "QGemm": "Gemm",
    "MatMul": "Gemm",
    "FusedMatMul": "Gemm",
    "QLinearMatMul": "Gemm",
    "MatMulInteger": "Gemm",
    "MatMulIntegerToFloat": "Gemm",
    "QLinearAdd": "Add",
    "QLinearMul": "Mul",
    "QLinearConcat": "Concat",
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "NhwcMaxPool": "MaxPool",
    "QLinearSigmoid": "Sigmoid",
}

_FUSED_AWAY = frozenset(
    {"Relu", "Clip", "Add", "Mul", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Pad", "BatchNormalization"}
    | {"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Div", "Tanh", "Gelu", "QuickGelu"}
)

_RENAMED = re.compile(r"_nchwc$|_nhwc$|_token_\d+$")
"""What ONNX Runtime appends to the name of a node that it rewrites."""


class Named(Protocol):
    """A layer that is matched by its name and its kind."""

    @property
    def name(self) -> str: ...

    @property
    def op(self) -> str: ...


@dataclass(frozen=True)
class Pair:
    """A layer before and after; one of them is None where it has no partner.

    Attributes:
        note: what became of a layer without a partner; empty for pairs.
    """

    before: LayerProfile | None
    after: LayerProfile | None
    note: str = ""

    @property
    def change_ms(self) -> float:
        """Milliseconds gained (negative) or lost."""
        return (self.after.median_ms if self.after else 0.0) - (self.before.median_ms if self.before else 0.0)


def compare(before: Profile, after: Profile) -> list[Pair]:
    """Every layer of both, in the order of `before`; layers that only `after` has come last."""
    partner = matched(before.layers, after.layers)
    taken = set(partner.values())
    pairs = [
        Pair(layer, after.layers[partner[index]])
        if index in partner
        else Pair(layer, None, _fate(index, before, after, partner))
        for index, layer in enumerate(before.layers)
    ]
    return [*pairs, *(Pair(None, layer, "new") for index, layer in enumerate(after.layers) if index not in taken)]


def matched(before: Sequence[Named], after: Sequence[Named]) -> dict[int, int]:
    """Position in `after` by position in `before`."""
    found = dict(_by_name(before, after))
    left = [index for index in range(len(before)) if index not in found]
    right = [index for index in range(len(after)) if index not in set(found.values())]
    matcher = difflib.SequenceMatcher(
        None, [_kind(before[index].op) for index in left], [_kind(after[index].op) for index in right], autojunk=False
    )
    for block in matcher.get_matching_blocks():
        found.update(zip(left[block.a : block.a + block.size], right[block.b : block.b + block.size], strict=True))
    return found


def _by_name(before: Sequence[Named], after: Sequence[Named]) -> Iterator[tuple[int, int]]:
    positions: Mapping[str, int] = {plain_name(layer.name): index for index, layer in enumerate(after)}
    used: set[int] = set()
    for index, layer in enumerate(before):
        place = positions.get(plain_name(layer.name))
        if place is not None and place not in used and _kind(layer.op) == _kind(after[place].op):
            used.add(place)
            yield index, place


def _fate(index: int, before: Profile, after: Profile, partner: Mapping[int, int]) -> str:
    """Fate of a layer that has no partner."""
    layer = before.layers[index]
    name = plain_name(layer.name)
    holder = next((other for other in after.layers if name in _parts(other.name)), None)
    if holder is not None:
        return f"fused into {holder.name}"
    earlier = next((partner[place] for place in range(index - 1, -1, -1) if place in partner), None)
    if layer.op in _FUSED_AWAY and earlier is not None:
        return f"fused or removed, after {after.layers[earlier].name}"
    return "gone"


def _kind(op: str) -> str:
    return _KINDS.get(op, op)


def plain_name(name: str) -> str:
    """A node's name in the file, from the one that ONNX Runtime gave it."""
    return _RENAMED.sub("", name)


def _parts(name: str) -> list[str]:
    """Names that a fused layer's name is put together from; none where it is one name."""
    parts = re.split(r"[;+,]", name)
    return [plain_name(part.strip()) for part in parts] if len(parts) > 1 else []
