"""A captured graph as a program again, without tracing it: what translating it to ONNX, and storing it, start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import fx, nn
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.export.graph_signature import InputSpec as Input
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.fx.node import Argument, Target
from torch.utils._pytree import tree_structure
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from compress.formats.onnx.dequantize import OPERATOR
from compress.graph.capture import constant, static_batch_reason
from compress.support.quiet import quiet
from compress.support.torch_internals import known

if TYPE_CHECKING:
    from collections.abc import Callable

    from compress.core.artifact import InputSpec

__all__ = ["program_for_storing", "program_of"]

aten = torch.ops.aten


def program_of(captured: fx.GraphModule, spec: InputSpec) -> ExportedProgram | None:
    """Return what `torch.export` would make of `captured` at batch 1: constants as inputs, and every value's shape.

    Running a graph on shapes alone takes a fraction of tracing it. `captured` is not changed. Zero points of stored
    integers get the type of those integers, as ONNX wants them.

    Args:
        captured: a graph as `capture` gives it, with or without quantize and dequantize operators.

    Returns:
        None for a graph with several inputs or outputs, with submodules, or that does not take such an image, and in a
        PyTorch that this was not tried with.
    """
    lifted = _lift(captured)
    if lifted is None or _find_shapes(lifted, lambda _: torch.empty(1, *spec.shape)) is None:
        return None
    _insert_known_sizes(lifted.graph)
    _write_adaptive_poolings(lifted.graph)
    _narrow_zero_points(lifted)
    return _program(lifted, frozenset(), None)


def program_for_storing(captured: fx.GraphModule, spec: InputSpec) -> ExportedProgram | None:
    """Return what `torch.export` would make of `captured` with any batch; parameters stay such, types as they are.

    Returns:
        None as `program_of`, and for a graph that does not take any batch.
    """
    lifted = None if static_batch_reason(captured) else _lift(captured)
    image = None if lifted is None else _find_shapes(lifted, lambda mode: _any_batch(mode, spec))
    batch = None if image is None else image.shape[0]
    if lifted is None or not isinstance(batch, torch.SymInt) or not batch.node.expr.is_Symbol:
        return None
    parameters = {name: value for name, value in captured.named_parameters() if name in lifted.state}
    lifted.state.update(parameters)
    return _program(lifted, frozenset(parameters), batch)


def _any_batch(mode: FakeTensorMode, spec: InputSpec) -> torch.Tensor:
    sizes = [DimDynamic.DYNAMIC, *(DimDynamic.STATIC for _ in spec.shape)]
    with unset_fake_temporarily():
        images = torch.empty(2, *spec.shape)  # 0 and 1 are special to PyTorch
    context: StatelessSymbolicContext[..., object] = StatelessSymbolicContext(dynamic_sizes=sizes)
    return mode.from_tensor(images, source=ConstantSource("image"), symbolic_context=context)


def _program(lifted: _Lifted, parameters: frozenset[str], batch: torch.SymInt | None) -> ExportedProgram:
    """Build the program: `parameters` as such, all other constants as buffers; `batch` is the free size, if one is."""
    ranges = {} if batch is None else {batch.node.expr: ValueRanges(0, int_oo)}
    inputs = [
        Input(InputKind.PARAMETER, TensorArgument(node.name), name)
        if name in parameters
        else Input(InputKind.BUFFER, TensorArgument(node.name), name, True)
        for name, node in lifted.constants.items()
    ]
    inputs.append(Input(InputKind.USER_INPUT, TensorArgument(lifted.input.name), None))
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(lifted.output.name), None)]
    signature = ExportGraphSignature(inputs, outputs)
    call = ModuleCallEntry("", ModuleCallSignature([], [], tree_structure(((0,), {})), tree_structure(0)))
    return ExportedProgram(nn.Module(), lifted.graph, signature, lifted.state, ranges, [call])


@dataclass(frozen=True)
class _Lifted:
    """A graph whose constants are inputs, first of all.

    Attributes:
        constants: the input that stands for a constant, by the constant's name.
        state: constants by name.
    """

    graph: fx.Graph
    constants: dict[str, fx.Node]
    input: fx.Node
    output: fx.Node
    state: dict[str, torch.Tensor]


def _lift(captured: fx.GraphModule) -> _Lifted | None:
    """Names and order follow from the calls alone, not from what else was done to the graph before it was stored."""
    if not known():
        return None
    inputs, result = captured.graph.find_nodes(op="placeholder"), _only_result(captured.graph)
    read = _constants_in_order_of_use(captured)
    if len(inputs) != 1 or result is None or read is None or captured.graph.find_nodes(op="call_module"):
        return None
    graph = fx.Graph()
    constants = {name: _placeholder(graph, name) for name in read}
    source = graph.placeholder("image")
    copies: dict[fx.Node, fx.Node] = {inputs[0]: source}
    for node in captured.graph.nodes:
        if node.op == "get_attr" and node.target in constants:
            copies[node] = constants[str(node.target)]
        elif node.op == "call_function":
            args, kwargs = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
            name = _operator_name(node.target)
            copies[node] = graph.create_node("call_function", node.target, args, kwargs, name=name)
            copies[node].meta.update(node.meta)
    graph.output((copies[result],))
    return _Lifted(graph, constants, source, copies[result], read)


def _placeholder(graph: fx.Graph, name: str) -> fx.Node:
    """An input that may be called as Python lets an argument be called: a module's parts may be named `0` or `a-b`."""
    node = graph.placeholder(name)
    node.target = node.name
    return node


def _constants_in_order_of_use(captured: fx.GraphModule) -> dict[str, torch.Tensor] | None:
    """Parameters and buffers by name; None if something that is no tensor is read."""
    constants: dict[str, torch.Tensor] = {}
    for call in captured.graph.nodes:
        for node in call.all_input_nodes:
            if node.op == "get_attr":
                value = constant(captured, node)
                if value is None:
                    return None
                constants[str(node.target)] = value
    return constants


def _operator_name(target: Target) -> str:
    """`conv2d` for `aten.conv2d.default`, as `torch.export` names its nodes."""
    return str(getattr(getattr(target, "overloadpacket", target), "__name__", target))


def _only_result(graph: fx.Graph) -> fx.Node | None:
    (result,) = graph.output_node().args
    if isinstance(result, (tuple, list)):
        result = result[0] if len(result) == 1 else None
    return result if isinstance(result, fx.Node) else None


_QUANTIZE = ("quantized_decomposed.quantize_per_tensor.default", "quantized_decomposed.quantize_per_channel.default")
_DEQUANTIZE = tuple(name.replace(".quantize", ".dequantize") for name in _QUANTIZE)


class _Shapes(fx.Interpreter):
    """Notes every value in its node's `meta`; to be run on tensors without contents."""

    def run_node(self, node: fx.Node) -> object:
        node.meta["val"] = super().run_node(node)
        return node.meta["val"]

    def call_function(self, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Argument]) -> object:
        """Half of the operators quantize or dequantize, which keeps the shape and takes PyTorch longest to say."""
        name = str(target)
        if kwargs or name not in (*_QUANTIZE, *_DEQUANTIZE):
            return super().call_function(target, args, kwargs)
        values, dtype = args[0], args[-1] if name in _QUANTIZE else torch.float32
        assert isinstance(values, torch.Tensor)
        assert isinstance(dtype, torch.dtype)
        return torch.empty_like(values, dtype=dtype)


def _find_shapes(lifted: _Lifted, image: Callable[[FakeTensorMode], torch.Tensor]) -> torch.Tensor | None:
    """Type and shape of every value, in its `meta`; the image, or None where the shapes do not fit together."""
    try:
        with quiet(), torch.no_grad(), FakeTensorMode(shape_env=ShapeEnv()) as mode:
            constants = [torch.empty(value.shape, dtype=value.dtype) for value in lifted.state.values()]
            images = image(mode)
            _Shapes(nn.Module(), graph=lifted.graph).run(*constants, images)
    except Exception:  # operators raise what they like; torch.export, asked next, says it in words
        return None
    return images


def _insert_known_sizes(graph: fx.Graph) -> None:
    """Insert the numbers where the graph computes with sizes that are known now."""
    for node in list(graph.nodes):
        if node.op == "call_function" and isinstance(node.meta["val"], int):
            _replace_by_number(node)
            graph.erase_node(node)


def _replace_by_number(node: fx.Node) -> None:
    for user in tuple(node.users):
        arguments = (user.args, user.kwargs)
        user.args, user.kwargs = fx.map_arg(arguments, lambda other: node.meta["val"] if other is node else other)


def _write_adaptive_poolings(graph: fx.Graph) -> None:
    """An average pooling to a size that divides the image's, as PyTorch decomposes it; the exporter knows none of these
    operators, and would trace the whole network again to decompose this one."""
    for node in graph.find_nodes(op="call_function", target=aten.adaptive_avg_pool2d.default):
        image, sizes = node.meta["val"].shape[-2:], node.args[0].meta["val"].shape[-2:]
        call: Target
        args: tuple[Argument, ...]
        if tuple(image) == (1, 1):
            call, args = aten.mean.dim, (node.args[0], [-1, -2], True)
        elif all(whole % part == 0 for whole, part in zip(sizes, image, strict=True)):
            steps = [whole // part for whole, part in zip(sizes, image, strict=True)]
            call, args = aten.avg_pool2d.default, (node.args[0], steps, steps)
        else:
            continue
        with graph.inserting_before(node):
            written = graph.create_node("call_function", call, args, name=_operator_name(call))
        written.meta = dict(node.meta)
        node.replace_all_uses_with(written)
        graph.erase_node(node)


def _narrow_zero_points(lifted: _Lifted) -> None:
    for name, node in lifted.constants.items():
        types = {_type_as_zero_points(node, user) for user in node.users}
        dtype = types.pop() if len(types) == 1 else None
        if dtype is not None:
            lifted.state[name] = lifted.state[name].to(dtype)
            node.meta["val"] = node.meta["val"].to(dtype)


def _type_as_zero_points(node: fx.Node, user: fx.Node) -> torch.dtype | None:
    """Type of the integers that `user` restores with the zero points `node`; None if it does something else."""
    if user.target is not OPERATOR or user.kwargs:
        return None
    dtype = user.args[-1]
    is_only_that = user.args[2] is node and list(user.args).count(node) == 1
    return dtype if is_only_that and isinstance(dtype, torch.dtype) else None
