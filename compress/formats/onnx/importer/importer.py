"""Import of an ONNX file as an `nn.Module` that computes the same.

Existing converters were tried first: onnx2torch 1.5.15 stops at opset 13 for reductions and at shared initializers.
Semantics of each operator: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from torch import fx

from compress.core.errors import CompressError, ModelError
from compress.formats.onnx.importer.bounded import BoundedTensors
from compress.formats.onnx.importer.builder import (
    Attribute,
    Builder,
    Handler,
    Operation,
    Value,
    attributes_of,
    to_tensor,
)
from compress.formats.onnx.importer.elementwise import ELEMENTWISE, TYPES
from compress.formats.onnx.importer.layers import LAYERS
from compress.formats.onnx.importer.layout import LAYOUT
from compress.formats.onnx.importer.normalizations import NORMALIZATIONS
from compress.formats.onnx.importer.pooling import POOLING
from compress.formats.onnx.importer.quantized import QUANTIZED
from compress.formats.onnx.importer.reductions import REDUCTIONS
from compress.formats.onnx.importer.resize import RESIZE
from compress.formats.onnx.importer.sizes import SIZES, TAKES_SIZES, as_tensor
from compress.support.quiet import first_line

__all__ = ["KNOWN_OPERATORS", "onnx_to_module"]

_STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
_Shapes = dict[str, tuple[int | None, ...]]
_HANDLERS: dict[str, Handler] = {
    **ELEMENTWISE,
    **LAYERS,
    **LAYOUT,
    **NORMALIZATIONS,
    **POOLING,
    **QUANTIZED,
    **REDUCTIONS,
    **RESIZE,
}
KNOWN_OPERATORS = frozenset(_HANDLERS)
"""Names of the standard operators that are imported; each in the forms its handler knows, the others refused."""


def onnx_to_module(path: Path) -> fx.GraphModule:
    """The network in an ONNX file as a `torch.fx.GraphModule` in eval mode.

    Convolutions, batch normalisations and matrix products with stored weights become `nn.Conv2d`, `nn.BatchNorm2d` and
    `nn.Linear`, named after their nodes. A model fixed to a batch of one takes any batch afterwards, as long as it only
    ever names its batch as the leading size of a reshape.

    Raises:
        ModelError: not readable, or an operator or a form of one that is not known here; names operator and node.
    """
    model = _read(path)
    return _Import(model).module()


@dataclass(eq=False)
class _Import:
    """One file on its way: the graph that grows, and what its values are so far."""

    model: onnx.ModelProto

    def __post_init__(self) -> None:
        self.builder = Builder()
        self.shapes, self.types = _shapes_and_types(self.model)
        self.opset = _opset(self.model)
        self.values: dict[str, Value] = {"": None}
        self.read = {name for node in self.model.graph.node for name in node.input}
        self.read |= {output.name for output in self.model.graph.output}

    def module(self) -> fx.GraphModule:
        graph = self.model.graph
        if graph.sparse_initializer:
            raise _unreadable_part("sparse initializers", "store the weights densely")
        for stored in graph.initializer:  # one of another type is named with the operator that reads it
            self.values[stored.name] = to_tensor(stored) if stored.data_type in TYPES else None
        for value in graph.input:
            if value.name not in self.values:
                if not value.type.HasField("tensor_type"):
                    raise _unreadable_part(f"the input {value.name!r}, which is no tensor", "export tensors only")
                name = f"input_{len(self.builder.graph.nodes)}"
                self.values[value.name] = self.builder.graph.placeholder(name)
        with BoundedTensors():
            for number, node in enumerate(graph.node):
                self._add(node, number)
        outputs = [self.values[output.name] for output in graph.output]
        if any(isinstance(value, fx.Node) and value in self.builder.codes for value in outputs):
            raise _unreadable_part("an operator QuantizeLinear whose codes are an output", "end in DequantizeLinear")
        return _finish(self.builder, outputs)

    def _add(self, node: onnx.NodeProto, number: int) -> None:
        """Add one node to the graph and its results to the values."""
        operation = self._operation(node, number)
        self._refuse_types(operation, node)
        handler = self._handler(operation)
        try:
            result = handler(self.builder, operation)
        except CompressError:
            raise
        except Exception as error:  # constants are computed here, and torch raises many types where it cannot
            raise operation.unsupported(f"in this form: {first_line(error)}") from error
        _refuse_unread(operation, node)
        results = result if isinstance(result, list) else [result]
        for index, name in enumerate(node.output[len(results) :], len(results)):
            if name in self.read:
                raise operation.unsupported(f"with output {index}")
        self.values.update(zip(node.output, results, strict=False))

    def _refuse_types(self, operation: Operation, node: onnx.NodeProto) -> None:
        """Refuse elements that torch does not compute with, and quantized ones but where they become float again."""
        for name in (*node.input, *node.output):
            kind = self.types.get(name, onnx.TensorProto.FLOAT)
            if kind not in TYPES:
                raise operation.unsupported(f"on elements of type {onnx.TensorProto.DataType.Name(kind)}")
        codes = any(isinstance(value, fx.Node) and value in self.builder.codes for value in operation.inputs)
        if codes and operation.kind != "DequantizeLinear":
            raise operation.unsupported("on quantized values")

    def _operation(self, node: onnx.NodeProto, number: int) -> Operation:
        return Operation(
            kind=node.op_type if node.domain in _STANDARD_DOMAINS else f"{node.domain}.{node.op_type}",
            name=node.name or f"{node.op_type}_{number}",
            inputs=tuple(self.values.get(name) for name in node.input),
            attributes=attributes_of(node),
            outputs=len(node.output),
            opset=self.opset,
            shapes=tuple(self.shapes.get(name) for name in node.input),
            results=tuple(self.shapes.get(name) for name in node.output),
        )

    def _handler(self, operation: Operation) -> Handler:
        """The handler for tensors, or for sizes where all that is computed are sizes."""
        computed = [value for value in operation.inputs if isinstance(value, fx.Node)]
        sizes = [value for value in computed if value in self.builder.sizes]
        if sizes and len(sizes) == len(computed) and operation.kind in SIZES:
            return SIZES[operation.kind]
        handler = _HANDLERS.get(operation.kind)
        if handler is None:
            raise operation.unsupported()
        if not set(sizes) - set(_taken_as_sizes(operation)):
            return handler

        def with_tensors(builder: Builder, operation: Operation) -> Value | list[Value]:
            return handler(builder, _sizes_as_tensors(builder, operation))

        return with_tensors


def _taken_as_sizes(operation: Operation) -> list[fx.Node]:
    """The operands that an operator on tensors wants as sizes."""
    positions = TAKES_SIZES.get(operation.kind, ())
    return [value for index, value in enumerate(operation.inputs) if index in positions and isinstance(value, fx.Node)]


def _sizes_as_tensors(builder: Builder, operation: Operation) -> Operation:
    """The same operation where sizes among its data are int64 tensors."""
    positions = TAKES_SIZES.get(operation.kind, ())
    inputs = tuple(
        builder.call(as_tensor, value) if value in builder.sizes and index not in positions else value
        for index, value in enumerate(operation.inputs)
    )
    return Operation(**{**vars(operation), "inputs": inputs})


def _refuse_unread(operation: Operation, node: onnx.NodeProto) -> None:
    """An attribute or an operand that no handler looked at would be passed over without a word."""
    for name, value in operation.attributes.items():
        if name not in operation.asked and value != _default(operation, name):
            raise operation.unsupported(f"with attribute {name}={_short(value)}")
    for attribute in node.attribute:
        if attribute.ref_attr_name or (attribute.HasField("g") and attribute.name not in operation.asked):
            raise operation.unsupported(f"with attribute {attribute.name}")
    for index, operand in enumerate(operation.inputs):
        if operand is not None and index not in operation.asked:
            raise operation.unsupported(f"with operand {index}")


def _default(operation: Operation, name: str) -> Attribute | None:
    """Return an attribute's value where it is not written; None where the standard has no such attribute or default."""
    try:
        known: Mapping[str, onnx.defs.OpSchema.Attribute] = onnx.defs.get_schema(
            operation.kind, operation.opset
        ).attributes
    except onnx.defs.SchemaError:
        return None
    default = known[name].default_value if name in known else None
    if default is None or not default.type:
        return None
    value = onnx.helper.get_attribute_value(default)
    return value.decode() if isinstance(value, bytes) else value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _finish(builder: Builder, outputs: list[Value]) -> fx.GraphModule:
    tensors = [builder.call(as_tensor, value) if value in builder.sizes else value for value in outputs]
    results = [builder.stored_operand(value) for value in tensors]
    builder.graph.output(results[0] if len(results) == 1 else tuple(results))
    for node in reversed(builder.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            builder.graph.erase_node(node)
    used = {str(node.target) for node in builder.graph.nodes if node.op in ("get_attr", "call_module")}
    members = {name: member for name, member in builder.members.items() if name in used}
    module = fx.GraphModule(members, builder.graph, class_name="ImportedOnnx")
    module.graph.lint()
    module.eval()
    return module


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
        return onnx.inliner.inline_local_functions(model) if model.functions else model
    except (DecodeError, OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path} is not a readable ONNX model: {first_line(error)}", fix="export it again") from error


def _unreadable_part(part: str, fix: str) -> ModelError:
    return ModelError(f"the ONNX model has {part}: that cannot be imported into torch", fix=fix)


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in _STANDARD_DOMAINS), default=1)


def _shapes_and_types(model: onnx.ModelProto) -> tuple[_Shapes, dict[str, int]]:
    """Static shapes and types of elements of all values; those that inference cannot find are absent."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError):  # an operator that is not ONNX's is named when reached
        graph = model.graph
    shapes: _Shapes = {stored.name: tuple(stored.dims) for stored in graph.initializer}
    types = {stored.name: stored.data_type for stored in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        types[value.name] = tensor.elem_type or onnx.TensorProto.FLOAT
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return shapes, types
