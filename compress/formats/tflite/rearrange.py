"""Chains of RESHAPE and TRANSPOSE in their shortest form.

The converter brackets what it does not know channels-last with two layout changes, and detectors and channel shuffles
(Zhang et al. 2018) write several reshapes and permutations in a row, some of rank five or six, which neither old
runtimes nor an Edge TPU take.
"""

from __future__ import annotations

from dataclasses import dataclass

from compress.formats.tflite.axis_atoms import Reshape, Step, Transpose, shortest
from compress.formats.tflite.edit import (
    copied_tensor,
    drop_dead_operators,
    integer_constant,
    kind_of,
    makers_of,
    new_operator,
    readers_of,
    replace_reads,
    stored_integers,
)
from compress.formats.tflite.flatbuffer import GraphEntry, ModelEntry, OperatorEntry, schema, shape_of

__all__ = ["Chain", "chain_to", "simplify_rearrangements", "step_of", "write_steps"]

_RESHAPES = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
_LARGEST_RANK = 4


@dataclass(frozen=True)
class Chain:
    """Operators that only rearrange one tensor's numbers.

    Attributes:
        source: the tensor that is rearranged.
        operators: in execution order.
        steps: what they do, one for each.
    """

    source: int
    operators: list[OperatorEntry]
    steps: list[Step]


def simplify_rearrangements(model: ModelEntry, graph: GraphEntry) -> int:
    """Rewrite, in place, every chain that has a shorter form; returns how many had."""
    count = 0
    for operator in [*graph.operators]:
        if step_of(model, graph, operator) is not None and _is_last(model, graph, operator):
            count += _shorten(model, graph, operator)
    drop_dead_operators(graph)
    return count


def chain_to(model: ModelEntry, graph: GraphEntry, tensor: int) -> Chain:
    """Everything in a row that rearranges, up to `tensor`; empty where its maker computes."""
    makers, chain = makers_of(graph), Chain(tensor, [], [])
    while (operator := makers.get(chain.source)) is not None:
        step = step_of(model, graph, operator)
        if step is None:
            break
        chain = Chain(int(operator.inputs[0]), [operator, *chain.operators], [step, *chain.steps])
    return chain


def write_steps(
    model: ModelEntry, graph: GraphEntry, source: int, steps: list[Step], result: int
) -> list[OperatorEntry]:
    """New operators (not in the graph yet) that take `source` to the tensor `result`; at least one step."""
    operators: list[OperatorEntry] = []
    for number, step in enumerate(steps):
        before = shape_of(graph.tensors[source])
        shape = step.shape if isinstance(step, Reshape) else tuple(before[axis] for axis in step.order)
        output = result if number == len(steps) - 1 else copied_tensor(graph, result, shape, "part")
        operators.append(_written(model, graph, step, source, output))
        source = output
    return operators


def _written(model: ModelEntry, graph: GraphEntry, step: Step, source: int, output: int) -> OperatorEntry:
    if isinstance(step, Transpose):
        inputs = (source, integer_constant(model, graph, step.order))
        return new_operator(model, "TRANSPOSE", inputs, output, version=2, options=schema().TransposeOptionsT())
    options = schema().ReshapeOptionsT()
    options.newShape = [*step.shape]
    inputs = (source, integer_constant(model, graph, step.shape))
    return new_operator(model, "RESHAPE", inputs, output, version=1, options=options)


def step_of(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry) -> Step | None:
    """Return what `operator` does if it only rearranges; None if it computes, or by numbers that are computed."""
    kind = kind_of(model, operator)
    if kind in _RESHAPES:
        return Reshape(shape_of(graph.tensors[operator.outputs[0]]))
    order = stored_integers(model, graph, operator.inputs[1]) if kind == "TRANSPOSE" else None
    return None if order is None else Transpose(tuple(order))


def _is_last(model: ModelEntry, graph: GraphEntry, operator: OperatorEntry) -> bool:
    """Tell whether anything but another rearrangement wants its result."""
    result = int(operator.outputs[0])
    readers = readers_of(graph).get(result, [])
    return result in graph.outputs or any(step_of(model, graph, reader) is None for reader in readers)


def _shorten(model: ModelEntry, graph: GraphEntry, last: OperatorEntry) -> int:
    result = int(last.outputs[0])
    chain = chain_to(model, graph, result)
    steps = shortest(shape_of(graph.tensors[chain.source]), chain.steps)
    if steps is None or _cost(steps) >= _cost_of_own(graph, chain):
        return 0
    position = graph.operators.index(last)
    if steps:
        graph.operators[position : position + 1] = write_steps(model, graph, chain.source, steps, result)
    elif not _merge(graph, chain.source, result, last):
        return 0
    return 1


def _merge(graph: GraphEntry, source: int, result: int, last: OperatorEntry) -> bool:
    """Make two tensors with the same numbers one; False where both are the file's own."""
    if result not in graph.outputs:
        replace_reads(graph, result, source)
    elif source in graph.outputs or source in graph.inputs:
        return False
    else:  # the output keeps its name
        replace_reads(graph, source, result)
        for operator in graph.operators:
            operator.outputs = [result if index == source else index for index in operator.outputs]
    graph.operators = [operator for operator in graph.operators if operator is not last]
    return True


def _cost(steps: list[Step]) -> tuple[bool, int, int]:
    """Least is best: no tensors of high rank, few transpositions, few operators."""
    return False, sum(isinstance(step, Transpose) for step in steps), len(steps)


def _cost_of_own(graph: GraphEntry, chain: Chain) -> tuple[bool, int, int]:
    """Return the cost of the operators that go when the chain is replaced: those that nothing else reads."""
    readers, own = readers_of(graph), 0
    for operator in reversed(chain.operators):
        result = int(operator.outputs[0])
        if own and (len(readers.get(result, [])) > 1 or result in graph.outputs):
            break
        own += 1
    kept, steps = chain.operators[len(chain.operators) - own :], chain.steps[len(chain.steps) - own :]
    high = any(len(shape_of(graph.tensors[operator.outputs[0]])) > _LARGEST_RANK for operator in kept[:-1])
    return high, sum(isinstance(step, Transpose) for step in steps), len(steps)
