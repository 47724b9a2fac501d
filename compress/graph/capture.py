"""One captured form of every model: a functional ATen graph, and the few questions asked of its nodes.

`capture` runs `torch.export` with `strict=False`: on torchvision's networks it is three times faster than the bytecode
tracer behind `strict=True` and gives the same operators. What is known to go wrong with it (in-place operators, which a
Q/DQ pair put between two aliases would tear apart) is made functional here, so nobody downstream meets it.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import fx, nn

from compress.core.artifact import InputSpec
from compress.core.errors import ModelError
from compress.graph.captures import remembered
from compress.graph.unlift import module_of
from compress.support.garbage import collector_paused
from compress.support.quiet import first_line, quiet
from compress.support.torch_internals import OpOverload

__all__ = [
    "bind",
    "call_nodes",
    "capture",
    "constant",
    "layer_name",
    "only_user",
    "parameter_name",
    "static_batch_reason",
    "tensor_inputs",
]

aten = torch.ops.aten

_STATIC_REASON = "static_batch_reason"
_DROPOUT = (aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default, aten.feature_dropout_.default)
_ZERO_STAYS = frozenset(
    getattr(aten, name).default
    for name in ("relu", "leaky_relu", "hardswish", "silu", "gelu", "elu", "tanh", "hardtanh")
)
_END = 2**63 - 1  # how aten.slice spells "to the end"


@collector_paused()
def capture(module: nn.Module, input: InputSpec, *, dynamic_batch: bool = True) -> fx.GraphModule:
    """The module as one functional ATen graph in inference mode; parameters keep their names and their storage.

    A module that already is such a graph comes back as it is. When the batch size cannot be left open the graph takes
    batches of one, and `static_batch_reason` tells why. Asked again for a module that still is what it was, nothing is
    traced: every caller gets a graph of its own over the same tensors (`compress.graph.captures`).

    Args:
        module: takes one float tensor `[N, C, H, W]`; any training-mode part is captured as in eval mode.
        input: the shape of one sample.
        dynamic_batch: try to leave N open.

    Raises:
        ModelError: the module cannot be traced, or does not take such an input.
    """
    if isinstance(module, fx.GraphModule) and _is_captured(module):
        return _without_guards(module)
    return remembered(module, (input.shape, dynamic_batch), lambda: _captured(_in_eval(module), input, dynamic_batch))


def _in_eval(module: nn.Module) -> nn.Module:
    """The module, or where a part of it is in training mode one in eval mode over the same tensors."""
    if not any(part.training for part in module.modules()):
        return module
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors}).eval()


def _captured(module: nn.Module, input: InputSpec, dynamic_batch: bool) -> fx.GraphModule:
    reason: str | None = "not asked for"
    if dynamic_batch:
        program, reason = _export_dynamic(module, input)
        if program is not None:
            return _functional(program)
    graph = _functional(_export_static(module, input))
    graph.meta[_STATIC_REASON] = reason
    return graph


def static_batch_reason(graph: fx.GraphModule) -> str | None:
    """Return why the graph takes batches of one only; None when it takes any batch."""
    reason = graph.meta.get(_STATIC_REASON)
    if reason is not None:
        return str(reason)
    sample = next(iter(graph.graph.find_nodes(op="placeholder"))).meta.get("val")
    if isinstance(sample, torch.Tensor) and isinstance(sample.shape[0], int):
        return f"it was captured with a fixed batch of {sample.shape[0]}"
    return None


def call_nodes(graph: fx.GraphModule) -> list[fx.Node]:
    """The operator calls, in execution order."""
    return [node for node in graph.graph.nodes if node.op == "call_function"]


def parameter_name(node: object) -> str | None:
    """Qualified name (`layer1.0.conv1.weight`) of the parameter or buffer a node reads; None for any other node."""
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def constant(graph: fx.GraphModule, node: object) -> torch.Tensor | None:
    """The parameter or buffer a node reads; None for any other node (or no node at all, as for a missing bias)."""
    name = parameter_name(node)
    if name is None:
        return None
    owner, _, attribute = name.rpartition(".")
    value = getattr(graph.get_submodule(owner), attribute)
    return value.detach() if isinstance(value, torch.Tensor) else None


def bind(graph: fx.GraphModule, name: str, value: torch.Tensor, *, trainable: bool) -> None:
    """Make `name` read `value` from now on: a parameter if `trainable`, else a buffer. Its module must exist."""
    path, _, attribute = name.rpartition(".")
    owner = graph.get_submodule(path)
    if hasattr(owner, attribute):
        delattr(owner, attribute)
    if trainable:
        owner.register_parameter(attribute, nn.Parameter(value))
    else:
        owner.register_buffer(attribute, value)


def only_user(node: fx.Node) -> fx.Node | None:
    """The single node that reads `node`, or None when there are several (or none)."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """Nodes holding floating-point tensors that `node` reads, in order, without repeats; parameters included."""
    return [source for source in node.all_input_nodes if _is_float_tensor(source.meta.get("val"))]


def layer_name(node: fx.Node) -> str:
    """A name the user recognises: the parameter, the leaf module that made the call, or `module.path.operator`."""
    name = parameter_name(node)
    if name is not None:
        return name
    if node.op == "placeholder":
        return "input"
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = (str(stack[-1][0]), str(stack[-1][1])) if stack else ("", "")
    path = path.removeprefix("L['self'].")
    if path and kind.startswith("torch.nn.modules."):
        return path
    return f"{path}.{node.name}" if path else node.name


def _export_dynamic(module: nn.Module, input: InputSpec) -> tuple[torch.export.ExportedProgram | None, str | None]:
    try:
        return _export(module, input, batch=2, dynamic=True), None
    except Exception as error:  # the exporter raises many types; each means the same here, and the reason is kept
        return None, first_line(error)


def _export_static(module: nn.Module, input: InputSpec) -> torch.export.ExportedProgram:
    try:
        return _export(module, input, batch=1, dynamic=False)
    except Exception as error:
        raise ModelError(
            f"torch.export cannot capture {type(module).__name__} on an input of shape {(1, *input.shape)}: "
            f"{first_line(error)}",
            fix="check model.input.shape, or remove data-dependent control flow from forward()",
        ) from error


def _export(module: nn.Module, input: InputSpec, *, batch: int, dynamic: bool) -> torch.export.ExportedProgram:
    reference = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    sample = torch.zeros(batch, *input.shape, dtype=reference.dtype, device=reference.device)
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    with quiet(), _without_stack_traces(), torch.no_grad():
        return torch.export.export(module, (sample,), dynamic_shapes=shapes, strict=False)


@contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Operators do not note which lines of Python called them: a tenth of the time of tracing, and nobody asks."""
    before = fx.config.do_not_emit_stack_traces
    fx.config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        fx.config.do_not_emit_stack_traces = before


def _functional(program: torch.export.ExportedProgram) -> fx.GraphModule:
    graph = module_of(program)
    _drop_noops(graph)  # first: dropout_ writes to its input in name only
    if not _drop_mutation(graph):
        with quiet():
            graph = module_of(program.run_decompositions({}))
        _drop_noops(graph)
    _drop_dropped_branches(graph)
    return graph


def _is_captured(graph: fx.GraphModule) -> bool:
    """Tell whether it came from torch.export, not from symbolic tracing, which leaves modules and Python functions."""
    return all(
        node.meta.get("val") is not None if node.op == "placeholder" else _is_aten(node) for node in graph.graph.nodes
    )


def _is_aten(node: fx.Node) -> bool:
    if node.op == "call_module":
        return node.target == "_guards_fn"
    if node.op != "call_function" or isinstance(node.target, OpOverload):
        return node.op != "call_method"
    return node.target is operator.getitem or not isinstance(node.meta.get("val"), (torch.Tensor, type(None)))


def _without_guards(graph: fx.GraphModule) -> fx.GraphModule:
    """Drop the shape checks of `ExportedProgram.module()`; they are no operator and every pass trips over them."""
    if not any(node.op == "call_module" or _mutated(node) is not None for node in graph.graph.nodes):
        return graph
    graph = copy.deepcopy(graph)
    for node in graph.graph.find_nodes(op="call_module"):
        graph.graph.erase_node(node)
    graph.recompile()
    _drop_noops(graph)
    if not _drop_mutation(graph):
        raise ModelError(
            "the exported program changes a view of a tensor in place",
            fix="save program.run_decompositions({}) instead",
        )
    return graph


def _drop_mutation(graph: fx.GraphModule) -> bool:
    """Swap in-place operators for their functional twins; False when a view makes that unsafe (nothing is changed)."""
    mutations = [(node, base) for node in call_nodes(graph) if (base := _mutated(node)) is not None]
    if any(_aliased(base) for _, base in mutations):
        return False
    for node, base in mutations:
        for user in list(base.users):
            if user is not node and node < user:
                user.replace_input_with(base, node)
        packet, overload = str(node.target).removeprefix("aten.").split(".")
        node.target = getattr(getattr(aten, packet.removesuffix("_")), overload)
    if mutations:
        graph.graph.lint()
        graph.recompile()
    return True


def _mutated(node: fx.Node) -> fx.Node | None:
    """The argument that an in-place operator writes to."""
    if not isinstance(node.target, OpOverload) or not node.target._schema.is_mutable:
        return None
    base = node.args[0]
    return base if isinstance(base, fx.Node) and node.target._schema.name.endswith("_") else None


def _aliased(base: fx.Node) -> bool:
    return base.op != "call_function" or _is_view(base) or any(_is_view(user) for user in base.users)


def _is_view(node: fx.Node) -> bool:
    if not isinstance(node.target, OpOverload):
        return node.op == "call_function"  # operator.getitem on the pieces of a split, which are views
    return any(value.alias_info is not None and not value.alias_info.is_write for value in node.target._schema.returns)


def _drop_noops(graph: fx.GraphModule) -> None:
    """Remove what does nothing at inference: dropout and slices that take everything."""
    noops = [node for node in call_nodes(graph) if node.target in _DROPOUT or _takes_everything(node)]
    for node in noops:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
    if noops:
        graph.recompile()


def _drop_dropped_branches(graph: fx.GraphModule) -> None:
    """Drop what a pruned residual branch leaves: the sum with zeros, and the second ReLU in a row."""
    changed = False
    for node in call_nodes(graph):
        kept = _other_summand(node) if node.target is aten.add.Tensor else _rectified(node)
        if kept is not None:
            node.replace_all_uses_with(kept)
            graph.graph.erase_node(node)
            changed = True
    if changed:
        graph.graph.eliminate_dead_code()
        graph.recompile()


def _other_summand(node: fx.Node) -> fx.Node | None:
    """Find what is added to zeros of its own shape."""
    inputs = [part for part in node.args[:2] if isinstance(part, fx.Node)]
    for zeros, kept in zip(inputs, inputs[::-1], strict=True):
        same = len(inputs) == 2 and _is_zeros(zeros) and not node.kwargs
        if same and zeros.meta["val"].shape == kept.meta["val"].shape:
            return kept
    return None


def _is_zeros(node: fx.Node) -> bool:
    """`zeros_like(...)`, or an activation of it that leaves zero as it is."""
    if node.target in _ZERO_STAYS and isinstance(node.args[0], fx.Node):
        return _is_zeros(node.args[0])
    return node.target is aten.zeros_like.default


def _rectified(node: fx.Node) -> fx.Node | None:
    """The input of a ReLU that is a ReLU's output already."""
    source = node.args[0] if node.target is aten.relu.default else None
    return source if isinstance(source, fx.Node) and source.target is aten.relu.default else None


def _takes_everything(node: fx.Node) -> bool:
    return node.target is aten.slice.Tensor and tuple(node.args[2:]) in ((0, _END), (0, _END, 1))


def _is_float_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
