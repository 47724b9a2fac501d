"""The matrix products of an ONNX graph whose weight is a constant, and those that have none, with the reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.core.errors import StageError, names_near
from compress.formats.onnx.building import constant, operator, scalar

__all__ = [
    "Linear",
    "StaysFloat",
    "choose",
    "describe_float",
    "find_linears",
    "finite",
    "float_nodes",
    "names_of",
    "read_elsewhere",
]

_LISTED = 8
"""Names shown per reason before the rest is only counted."""


class _Named(Protocol):
    @property
    def names(self) -> tuple[str, ...]: ...


N = TypeVar("N", bound=_Named)


@dataclass(frozen=True)
class StaysFloat:
    """A node that computes in float, and why."""

    name: str
    op_type: str
    reason: str


@dataclass(frozen=True, eq=False)
class Linear:
    """`activation [..., K] @ weight [K, N] + bias`: a MatMul, or a Gemm with its alpha and beta.

    Attributes:
        names: what a pattern may call it, the most telling first: module, weight, node.
        stored: the constant, `[K, N]` or, when `transposed`, `[N, K]`.
        bias: of a Gemm; after a MatMul the Add stays where it is.
    """

    node: ir.Node
    names: tuple[str, ...]
    activation: ir.Value
    stored: ir.Value
    transposed: bool
    bias: ir.Value | None = None

    @property
    def alpha(self) -> float:
        return self.node.attributes.get_float("alpha", 1.0)

    @property
    def key(self) -> tuple[ir.Value, bool, float]:
        """Equal for products that share their weight."""
        return self.stored, self.transposed, self.alpha

    @property
    def shape(self) -> tuple[int, int]:
        """`(N, K)`."""
        assert self.stored.shape is not None
        first, second = self.stored.shape.numpy()
        return (first, second) if self.transposed else (second, first)

    def weight_by_output(self) -> NDArray[np.float32]:
        """The weight times alpha, `[N, K]` and contiguous.

        Raises:
            StageError: it holds NaN or infinity.
        """
        stored = finite(self.stored, self.names[0])
        by_output = stored if self.transposed else stored.T
        return np.ascontiguousarray(by_output * np.float32(self.alpha))

    def replaced_by(self, product: ir.Value) -> ir.Value:
        """`product` plus beta times the bias of a Gemm."""
        if self.bias is None:
            return product
        beta = self.node.attributes.get_float("beta", 1.0)
        if beta == 1.0:
            return operator("Add", product, self.bias)
        known = ir.convenience.get_const_tensor(self.bias)
        if known is not None:
            return operator("Add", product, constant(self.node, np.float32(beta) * known.numpy(), "bias"))
        return operator("Add", product, operator("Mul", self.bias, scalar(self.node, beta, ir.DataType.FLOAT, "beta")))


def find_linears(model: ir.Model) -> tuple[list[Linear], list[StaysFloat]]:
    """Products with float32 constant weights in execution order, and the other MatMul and Gemm nodes."""
    linears, others = [], []
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx") and node.op_type in ("MatMul", "Gemm"):
            outcome = _linear(node) if node.graph is model.graph else "it is inside the body of a control-flow operator"
            if isinstance(outcome, Linear):
                linears.append(outcome)
            else:
                others.append(StaysFloat(node.name or "", node.op_type, outcome))
    return linears, others


def choose(layers: Sequence[N], exclude: Sequence[str], stage: str, *, kinds: str) -> list[N]:
    """The layers that no `fnmatch` pattern names.

    Args:
        kinds: what `layers` holds, in words.

    Raises:
        StageError: there are none to begin with or none left, or a pattern matches nothing (names those near it).
    """
    if not layers:
        raise StageError(
            f"stage {stage!r}: nothing to quantize, the model has no {kinds} with constant fp32 weights of its own",
            fix=f"~stage.{stage} precision=int8, whose stage ptq_static quantizes convolutions",
        )
    everything = list(dict.fromkeys(name for layer in layers for name in layer.names))
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in everything):
            raise StageError(
                f"stage {stage!r}: exclude pattern {pattern!r} matches no layer that would be quantized",
                fix=names_near(pattern, everything),
            )
    kept = [layer for layer in layers if not any(fnmatchcase(name, p) for name in layer.names for p in exclude)]
    if not kept:
        raise StageError(f"stage {stage!r}: exclude leaves no layer to quantize", fix=f"~stage.{stage}")
    return kept


def read_elsewhere(linear: Linear, linears: Sequence[Linear]) -> bool:
    """Tell whether something besides `linears` reads the stored weight, as an embedding tied to the output layer."""
    products = {other.node for other in linears}

    def among_them(node: ir.Node) -> bool:
        return node in products or (node.op_type == "Transpose" and all(map(among_them, node.outputs[0].consumers())))

    return not all(map(among_them, linear.stored.consumers()))


def describe_float(nodes: Iterable[StaysFloat]) -> list[str]:
    """One line per kind and reason, naming the nodes."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for node in nodes:
        groups[node.op_type, node.reason].append(node.name)
    lines = []
    for (op_type, reason), names in groups.items():
        rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        lines.append(f"{len(names)} {op_type} in float, {reason}: {', '.join(names[:_LISTED])}{rest}")
    return lines


def finite(stored: ir.Value, layer: str) -> NDArray[np.float32]:
    """The numbers of a float32 constant.

    Raises:
        StageError: it holds NaN or infinity; names the layer.
    """
    tensor = ir.convenience.get_const_tensor(stored)
    assert tensor is not None
    array = np.asarray(tensor.numpy(), dtype=np.float32)
    if not np.isfinite(array).all():
        raise StageError(
            f"the weight of {layer!r} holds NaN or infinity",
            fix="check the checkpoint; it did not train to finite values",
        )
    return array


def names_of(node: ir.Node, *constants: ir.Value | None) -> tuple[str, ...]:
    """Return what a pattern may call `node`: the modules that its constants belong to, the first constant, the node.

    Constant folding renames a transposed weight (`val_13`); the bias then still knows the module.
    """
    stored = [value.name or "" for value in constants if value is not None]
    candidates = [*(name.rpartition(".")[0] for name in stored), *stored[:1], node.name or ""]
    return tuple(dict.fromkeys(name for name in candidates if name)) or (node.op_type,)


def float_nodes(model: ir.Model, reasons: Mapping[str, str]) -> list[StaysFloat]:
    """The nodes of the operators in `reasons`, which no rewrite touches, with the reason given there."""
    return [
        StaysFloat(node.name or "", node.op_type, reasons[node.op_type])
        for node in model.graph.all_nodes()
        if node.domain in ("", "ai.onnx") and node.op_type in reasons
    ]


def _linear(node: ir.Node) -> Linear | str:
    """The node as a `Linear`, or why it is none."""
    activation, weight = node.inputs[0], node.inputs[1]
    if activation is None or weight is None:
        return "an input is missing"
    if node.attributes.get_int("transA", 0):
        return "its activation is transposed"
    stored, transposed = _through_transpose(weight)
    if ir.convenience.get_const_tensor(stored) is None:
        left = ir.convenience.get_const_tensor(activation) is not None
        return "its weight is on the left" if left else "a product of two activations"
    if stored.dtype is not ir.DataType.FLOAT:
        return f"its weight is {stored.dtype}"
    if stored.shape is None or len(stored.shape) != 2:
        return f"its weight is not a matrix but {stored.shape}"
    transposed ^= bool(node.attributes.get_int("transB", 0))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return Linear(node, names_of(node, stored, bias or _added_next(node)), activation, stored, transposed, bias)


def _through_transpose(weight: ir.Value) -> tuple[ir.Value, bool]:
    """Constants above the exporter's folding limit arrive behind a Transpose."""
    producer = weight.producer()
    if producer is None or producer.op_type != "Transpose" or producer.inputs[0] is None:
        return weight, False
    return producer.inputs[0], producer.attributes.get_ints("perm", (1, 0)) != (0, 1)


def _added_next(node: ir.Node) -> ir.Value | None:
    """The constant vector that only this product's Add uses."""
    for user in node.outputs[0].consumers():
        if user.op_type != "Add":
            continue
        for value in user.inputs:
            if value is not None and value.is_initializer() and len(value.uses()) == 1 and len(value.shape or ()) == 1:
                return value
    return None
