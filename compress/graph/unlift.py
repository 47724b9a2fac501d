"""A captured program as a module again, its parameters read by name instead of passed.

As `ExportedProgram.module()`, which also notes for every node where it came from, checks the input at every call and
compiles the graph three times: on a network of many small layers that takes a fifth as long as capturing it.
"""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from compress.support.reserved_names import quote_reserved_names

__all__ = ["module_of"]

quote_reserved_names()

_READ = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def module_of(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program's function; parameters keep their names and their storage."""
    if not _plain(program):
        module = program.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        return module
    graph = copy.deepcopy(program.graph)
    for node, spec in zip(graph.find_nodes(op="placeholder"), program.graph_signature.input_specs, strict=True):
        if spec.kind in _READ:
            with graph.inserting_after(node):
                read = graph.get_attr(str(spec.target))
            read.meta = node.meta
            node.replace_all_uses_with(read)
            graph.erase_node(node)
    output = graph.output_node()
    ((result,),) = output.args
    output.args = (result,)
    owner = nn.Module()
    _hold(owner, program)
    module = fx.GraphModule(owner, graph)
    _hold(module, program)  # once more: GraphModule makes every buffer a persistent one
    return module


def _plain(program: torch.export.ExportedProgram) -> bool:
    """One tensor in, one tensor out, and nothing written to."""
    signature, calls = program.graph_signature, program.call_spec
    inputs = [spec for spec in signature.input_specs if spec.kind not in _READ]
    return (
        [spec.kind for spec in inputs] == [InputKind.USER_INPUT]
        and [spec.kind for spec in signature.output_specs] == [OutputKind.USER_OUTPUT]
        and calls.out_spec is not None
        and calls.out_spec.is_leaf()
    )


def _hold(owner: nn.Module, program: torch.export.ExportedProgram) -> None:
    """Give `owner` the program's tensors under their names."""
    for spec in program.graph_signature.input_specs:
        if spec.kind in _READ:
            name = str(spec.target)
            value = program.state_dict.get(name, program.constants.get(name))
            path, _, attribute = name.rpartition(".")
            if isinstance(value, nn.Parameter):
                _submodule(owner, path).register_parameter(attribute, value)
            else:
                _submodule(owner, path).register_buffer(attribute, value, persistent=bool(spec.persistent))


def _submodule(owner: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else []:
        if not hasattr(owner, part):
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    return owner
