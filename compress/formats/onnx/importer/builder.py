"""The graph under construction, and one ONNX node as the operators see it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import ml_dtypes
import numpy as np
import onnx
import torch
from torch import fx, nn

from compress.core.errors import ModelError
from compress.support.reserved_names import quote_reserved_names

__all__ = [
    "Attribute",
    "Builder",
    "Handler",
    "Operation",
    "Value",
    "WeightGrid",
    "attributes_of",
    "to_tensor",
]

Value = fx.Node | torch.Tensor | None
"""Computed at run time, a constant of the file, or an optional operand that was left out."""

_MOST_SIZES = 4096
"""Numbers that are read as sizes, axes and the like, each an object of Python: there is one for a dimension."""

_FREE = (2, 3)

Attribute = int | float | str | list[int] | list[float] | torch.Tensor
Shape = tuple[int | None, ...]
T = TypeVar("T", int, float, str, list[int], torch.Tensor)

quote_reserved_names()  # nodes give their names to layers


@dataclass(frozen=True)
class Operation:
    """One ONNX node with its operands resolved.

    What a handler never asks for is noted, so that the importer refuses an attribute or an operand that would have been
    passed over.

    Attributes:
        opset: version of the standard operator set, which decides where axes and limits are found.
        shapes: static shape of each operand as far as inference found it; None for a size it did not.
        results: the same of each output.
        asked: names of the attributes and numbers of the operands that were read.
    """

    kind: str
    name: str
    inputs: tuple[Value, ...]
    attributes: Mapping[str, Attribute]
    outputs: int
    opset: int
    shapes: tuple[Shape | None, ...]
    results: tuple[Shape | None, ...] = ()
    asked: set[str | int] = field(default_factory=set)

    def get(self, name: str, default: T) -> T:
        """An attribute, which has the type of its default."""
        self.asked.add(name)
        return cast(T, self.attributes.get(name, default))

    def ints(self, name: str) -> tuple[int, ...] | None:
        """A list attribute, None where it is absent."""
        self.asked.add(name)
        numbers = self.attributes.get(name)
        return tuple(cast(list[int], numbers)) if numbers is not None else None

    def floats(self, name: str) -> tuple[float, ...]:
        """A list attribute that must be there."""
        self.asked.add(name)
        return tuple(cast(list[float], self.attributes[name]))

    def ignore(self, *names: str | int) -> None:
        """Attributes and operands that say nothing new, or nothing that matters at inference."""
        self.asked.update(names)

    def operand(self, index: int) -> Value:
        """An operand; None where the node has fewer."""
        self.asked.add(index)
        return self.inputs[index] if index < len(self.inputs) else None

    def operands(self) -> list[fx.Node | torch.Tensor]:
        """All of them, of an operator that takes any number."""
        return [self.data(index) for index in range(len(self.inputs))]

    def data(self, index: int = 0) -> fx.Node | torch.Tensor:
        """An operand that must be there."""
        value = self.operand(index)
        if value is None:
            raise self.unsupported(f"without operand {index}")
        return value

    def constant(self, index: int) -> torch.Tensor | None:
        """An operand that must be stored in the file if it is there."""
        value = self.operand(index)
        if isinstance(value, fx.Node):
            raise self.unsupported(f"with a computed operand {index}")
        return value

    def stored(self, index: int) -> torch.Tensor:
        """An operand that must be there, and in the file."""
        value = self.constant(index)
        if value is None:
            raise self.unsupported(f"without operand {index}")
        return value

    def constant_ints(self, index: int, attribute: str) -> tuple[int, ...] | None:
        """Axes and the like: an attribute in old operator sets, an operand in new ones."""
        stored = self.constant(index)
        return tuple(numbers_of(stored)) if stored is not None else self.ints(attribute)

    def shape(self, index: int = 0) -> Shape | None:
        """Static shape of an operand, as far as it is known."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(value, torch.Tensor):
            return tuple(value.shape)
        return self.shapes[index] if index < len(self.shapes) else None

    def rank(self, index: int = 0) -> int | None:
        shape = self.shape(index)
        return None if shape is None else len(shape)

    def known_rank(self, index: int = 0) -> int:
        """The rank of an operand that has to be known."""
        rank = self.rank(index)
        if rank is None:
            raise self.unsupported("of an unknown rank")
        return rank

    def size(self, axis: int, index: int = 0) -> int:
        """One size of an operand that has to be known."""
        shape = self.shape(index)
        size = None if shape is None else shape[axis]
        if size is None:
            raise self.unsupported(f"of an unknown size along axis {axis}")
        return size

    def unsupported(self, detail: str = "") -> ModelError:
        operator = f"{self.kind} {detail}".strip()
        return ModelError(
            f"ONNX operator {operator} (node {self.name!r}) cannot be imported into torch",
            fix="bring the model as PyTorch (model=factory or .pt2), or use only stages that take ONNX",
        )


@dataclass(frozen=True, eq=False)
class WeightGrid:
    """The integers that a stored weight was dequantized from, int8 with zero point 0.

    Attributes:
        scale: `[1]` or `[channels]`.
        axis: where the channels lie; None for one scale.
        values: the float weight; kept so that its identity stays its own.
    """

    scale: torch.Tensor
    axis: int | None
    values: torch.Tensor

    def along(self, axis: int) -> WeightGrid:
        """The same grid of a weight whose channels have moved to `axis`."""
        return WeightGrid(self.scale, None if self.axis is None else axis, self.values)


@dataclass(eq=False)
class Builder:
    """A torch.fx graph that grows by one operation at a time.

    Constants are computed on the spot, so arithmetic on stored tensors leaves no trace in the graph.

    Attributes:
        sizes: nodes that are sizes of a tensor (a number or a tuple of numbers) and no tensor.
        codes: nodes that are int8 codes, which stand 128 lower than the file's uint8 ones: for DequantizeLinear alone.
        examples: what sizes come out as when free ones are 2, and when they are 3.
        grids: of the float weights that were stored as integers, by the identity of the tensor.
    """

    graph: fx.Graph = field(default_factory=fx.Graph)
    members: dict[str, nn.Module | torch.Tensor] = field(default_factory=dict)
    sizes: set[fx.Node] = field(default_factory=set)
    codes: set[fx.Node] = field(default_factory=set)
    examples: dict[fx.Node, tuple[object, ...]] = field(default_factory=dict)
    grids: dict[int, WeightGrid] = field(default_factory=dict)

    def grid_of(self, weight: Value) -> WeightGrid | None:
        """The grid of a constant that came out of a DequantizeLinear."""
        return self.grids.get(id(weight))

    def call(self, function: Callable[..., object], *operands: object) -> fx.Node | torch.Tensor:
        """`function(*operands)`: now where all operands are constants, at run time otherwise."""
        if not any(isinstance(leaf, fx.Node) for operand in operands for leaf in _leaves(operand)):
            return torch.as_tensor(function(*operands))
        return self.graph.call_function(function, tuple(self.stored_operand(operand) for operand in operands))

    def call_sizes(self, function: Callable[..., object], *operands: object, shape: Shape | None = None) -> fx.Node:
        """Call a function whose result is sizes, as `call` does; `shape` is the operand's, if that is a tensor."""
        node = self.graph.call_function(function, cast(tuple[fx.node.Argument, ...], operands))
        self.sizes.add(node)
        if shape is not None:
            examples = [
                torch.empty([free if size is None else size for size in shape], device="meta") for free in _FREE
            ]
            self.examples[node] = tuple(function(example, *operands[1:]) for example in examples)
        elif all(operand in self.examples for operand in operands if isinstance(operand, fx.Node)):
            columns = ([self._example(operand, run) for operand in operands] for run in range(len(_FREE)))
            self.examples[node] = tuple(function(*column) for column in columns)
        return node

    def _example(self, operand: object, run: int) -> object:
        return self.examples[operand][run] if isinstance(operand, fx.Node) else operand

    def known_sizes(self, node: fx.Node) -> tuple[int | None, ...] | None:
        """The sizes that are the same whatever the free ones are; None where nothing is known."""
        if node not in self.examples:
            return None
        first, second = (value if isinstance(value, tuple) else (value,) for value in self.examples[node])
        return tuple(int(size) if size == other_size else None for size, other_size in zip(first, second, strict=True))

    def module(self, layer: nn.Module, operand: fx.Node | torch.Tensor, name: str) -> fx.Node:
        """Apply a layer that keeps its parameters, as a module named after the ONNX node."""
        path = self._free(name)
        self.members[path] = layer
        return self.graph.call_module(path, (self.stored_operand(operand),))

    def stored_operand(self, operand: object) -> fx.node.Argument:
        """Constants become buffers; everything else is passed on."""
        if isinstance(operand, torch.Tensor):
            path = self._free("constant")
            self.members[path] = operand
            return self.graph.get_attr(path)
        if isinstance(operand, list | tuple) and any(isinstance(leaf, torch.Tensor) for leaf in operand):
            return [self.stored_operand(leaf) for leaf in operand]
        return cast(fx.node.Argument, operand)

    def _free(self, name: str) -> str:
        """A Python identifier close to `name` that no member has."""
        base = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[-60:].lstrip("_0123456789") or "node"
        path, number = base, 1
        while path in self.members:
            path, number = f"{base}_{number}", number + 1
        return path


Handler = Callable[[Builder, Operation], Value | list[Value]]
"""Adds one operation to the graph and returns its results."""


def numbers_of(sizes: torch.Tensor) -> list[int]:
    """A stored vector of sizes, axes or the like.

    Raises:
        ValueError: it is longer than any of them.
    """
    if sizes.numel() > _MOST_SIZES:
        raise ValueError(f"{sizes.numel()} numbers are taken as sizes")
    numbers: list[int] = sizes.reshape(-1).tolist()
    return numbers


def attributes_of(node: onnx.NodeProto) -> dict[str, Attribute]:
    """Attributes by name, in Python types; subgraphs are left out, as the operators that have them are refused."""
    return {attribute.name: _attribute(attribute) for attribute in node.attribute if not attribute.HasField("g")}


def to_tensor(stored: onnx.TensorProto) -> torch.Tensor:
    """A tensor of the file, copied because the file's memory is read-only.

    Raises:
        ModelError: its elements are of a type that torch does not compute with.
    """
    values = onnx.numpy_helper.to_array(stored)
    if values.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16)
    try:
        return torch.from_numpy(values.copy())
    except TypeError as error:
        kind = onnx.TensorProto.DataType.Name(stored.data_type)
        raise ModelError(
            f"the stored tensor {stored.name!r} has elements of type {kind}, which torch does not compute with",
            fix="export the model in float32",
        ) from error


def _attribute(attribute: onnx.AttributeProto) -> Attribute:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return to_tensor(value) if isinstance(value, onnx.TensorProto) else value


def _leaves(operand: object) -> Sequence[object]:
    return operand if isinstance(operand, list | tuple) else (operand,)
