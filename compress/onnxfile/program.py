"""A captured graph as a program again, without tracing it: what translating it to ONNX starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import fx, nn
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
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils._pytree import tree_structure

from compress.graph import constant

if TYPE_CHECKING:
    from compress.types import InputSpec

__all__ = ["program_of"]


def program_of(captured: fx.GraphModule, spec: InputSpec) -> ExportedProgram | None:
    """What `torch.export` would make of `captured` at batch 1: constants as inputs, and the shape of every value.

    Running a graph on shapes alone takes a fraction of tracing it. `captured` is not changed.

    Args:
        captured: a graph as `compress.graph.capture` gives it, with or without quantize and dequantize operators.

    Returns:
        None for a graph with several inputs or outputs, or with submodules.
    """
    lifted = _lift(captured)
    if lifted is None:
        return None
    _find_shapes(lifted, spec)
    _insert_known_sizes(lifted.graph)
    inputs = [Input(InputKind.BUFFER, TensorArgument(node.name), name, True) for name, node in lifted.constants.items()]
    inputs.append(Input(InputKind.USER_INPUT, TensorArgument(lifted.input.name), None))
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(lifted.output.name), None)]
    call = ModuleCallSignature([], [], tree_structure(((0,), {})), tree_structure(0))
    return ExportedProgram(
        nn.Module(), lifted.graph, ExportGraphSignature(inputs, outputs), lifted.state, {}, [ModuleCallEntry("", call)]
    )


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
    inputs = captured.graph.find_nodes(op="placeholder")
    if len(inputs) != 1 or captured.graph.find_nodes(op="call_module"):
        return None
    graph, copies, constants, state = fx.Graph(), dict[fx.Node, fx.Node](), dict[str, fx.Node](), {}
    for node in captured.graph.find_nodes(op="get_attr"):
        value = constant(captured, node)
        if value is None:
            return None
        name = str(node.target)
        if name not in constants:
            constants[name], state[name] = graph.placeholder(node.name), value
        copies[node] = constants[name]
    copies[inputs[0]] = source = graph.node_copy(inputs[0])
    for node in captured.graph.nodes:
        if node.op == "call_function":
            copies[node] = graph.node_copy(node, copies.__getitem__)
    result = _only_result(captured.graph)
    if result is None:
        return None
    graph.output((copies[result],))
    return _Lifted(graph, constants, source, copies[result], state)


def _only_result(graph: fx.Graph) -> fx.Node | None:
    (result,) = graph.output_node().args
    if isinstance(result, (tuple, list)):
        result = result[0] if len(result) == 1 else None
    return result if isinstance(result, fx.Node) else None


def _find_shapes(lifted: _Lifted, spec: InputSpec) -> None:
    """Type and shape of every value, in its `meta`."""
    with torch.no_grad():
        shapes = FakeTensorProp(fx.GraphModule(nn.Module(), lifted.graph))
        shapes.propagate(*lifted.state.values(), torch.empty(1, *spec.shape))


def _insert_known_sizes(graph: fx.Graph) -> None:
    """Where the graph computes with sizes that are known now, the numbers."""
    for node in list(graph.nodes):
        if node.op == "call_function" and isinstance(node.meta["val"], int):
            for user in tuple(node.users):
                user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), _Known(node))
            graph.erase_node(node)


@dataclass(frozen=True)
class _Known:
    node: fx.Node

    def __call__(self, other: fx.Node) -> fx.node.Argument:
        return self.node.meta["val"] if other is self.node else other
