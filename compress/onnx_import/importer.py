"""From an ONNX file to an `nn.Module` that computes the same.

Existing converters were tried first: onnx2torch 1.5.15 stops at opset 13 for reductions and at shared initializers.
Semantics of each operator: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from torch import fx, nn

from compress.errors import ModelError
from compress.onnx_import.builder import Builder, Operation, Value, attributes_of, to_tensor
from compress.onnx_import.layers import LAYERS
from compress.onnx_import.operators import OPERATORS
from compress.onnx_import.quantized import QUANTIZED
from compress.onnx_import.sizes import SIZES

__all__ = ["onnx_to_module"]

_STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
_Shapes = dict[str, tuple[int | None, ...]]


def onnx_to_module(path: Path) -> nn.Module:
    """The network in an ONNX file as a `torch.fx.GraphModule` in eval mode.

    Convolutions, batch normalisations and matrix products with stored weights become `nn.Conv2d`, `nn.BatchNorm2d` and
    `nn.Linear`, named after their nodes. A model fixed to a batch of one takes any batch afterwards, as long as it only
    ever names its batch as the leading size of a reshape.

    Raises:
        ModelError: not readable, or an operator that is not known here; names operator and node.
    """
    model = _read(path)
    builder = Builder()
    values: dict[str, Value] = {"": None}
    values.update({stored.name: to_tensor(stored) for stored in model.graph.initializer})
    for given in model.graph.input:
        if given.name not in values:
            values[given.name] = builder.graph.placeholder(f"input_{len(builder.graph.nodes)}")
    shapes, opset = _shapes(model), _opset(model)
    for number, node in enumerate(model.graph.node):
        _import_node(node, number, builder, values, shapes, opset)
    return _finish(builder, [values[output.name] for output in model.graph.output])


def _import_node(
    node: onnx.NodeProto, number: int, builder: Builder, values: dict[str, Value], shapes: _Shapes, opset: int
) -> None:
    """Add one node to the graph and its results to `values`."""
    operation = Operation(
        kind=node.op_type if node.domain in _STANDARD_DOMAINS else f"{node.domain}.{node.op_type}",
        name=node.name or f"{node.op_type}_{number}",
        inputs=tuple(values[name] for name in node.input),
        attributes=attributes_of(node),
        outputs=len(node.output),
        opset=opset,
        shapes=tuple(shapes.get(name) for name in node.input),
    )
    on_sizes = any(isinstance(value, fx.Node) and value in builder.sizes for value in operation.inputs[:1])
    on_sizes = on_sizes or (operation.kind in _MIXED and any(value in builder.sizes for value in _nodes(operation)))
    table = SIZES if on_sizes and operation.kind in SIZES else {**OPERATORS, **LAYERS, **QUANTIZED}
    handler = table.get(operation.kind)
    if handler is None:
        raise operation.unsupported()
    result = handler(builder, operation)
    results = result if isinstance(result, list) else [result]
    values.update(zip(node.output, results, strict=False))


_MIXED = frozenset({"Concat", "Add", "Sub", "Mul", "Div"})
"""Operators whose later operands may be the sizes."""


def _nodes(operation: Operation) -> list[fx.Node]:
    return [value for value in operation.inputs if isinstance(value, fx.Node)]


def _finish(builder: Builder, outputs: list[Value]) -> nn.Module:
    builder.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
    for node in reversed(builder.graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            builder.graph.erase_node(node)
    used = {str(node.target) for node in builder.graph.nodes if node.op in ("get_attr", "call_module")}
    members = {name: member for name, member in builder.members.items() if name in used}
    module = fx.GraphModule(members, builder.graph, class_name="ImportedOnnx")
    module.graph.lint()
    return module.eval()


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    except (DecodeError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a readable ONNX model: {error}", fix="export it again") from error


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in _STANDARD_DOMAINS), default=1)


def _shapes(model: onnx.ModelProto) -> _Shapes:
    """Static shapes of all values; those that inference cannot find are absent."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:  # an operator that is not ONNX's; it is named when it is reached
        graph = model.graph
    found: _Shapes = {stored.name: tuple(stored.dims) for stored in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            found[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    return found
