"""Putting new nodes in the place of an old one."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

__all__ = ["new_nodes", "replace"]


def replace(node: ir.Node, results: Sequence[ir.Value]) -> None:
    """Let `results` take the names, types, users and place of the first outputs of `node`, which is removed; nobody may
    read the others.

    The producers of `results` that are in no graph yet come into the graph, named after `node`.
    """
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    nodes = new_nodes(results)
    for number, new in enumerate(nodes):
        new.name = f"{node.name}_{number}_{new.op_type}"
        for position, value in enumerate(new.outputs):
            value.name = f"{new.name}_{position}"
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, node.outputs[: len(results)], results)


def new_nodes(values: Sequence[ir.Value]) -> list[ir.Node]:
    """Producers of `values` that are in no graph yet, in execution order."""
    order: dict[ir.Node, None] = {}

    def visit(value: ir.Value | None) -> None:
        producer = value.producer() if value is not None else None
        if producer is None or producer.graph is not None or producer in order:
            return
        for upstream in producer.inputs:
            visit(upstream)
        order[producer] = None

    for value in values:
        visit(value)
    return list(order)
