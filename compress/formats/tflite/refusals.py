"""Reasons why a network has no file, in the user's words: the layer, its module, the operator, and the replacement.

The converter and the interpreter speak of their own inner forms (MLIR, node numbers, temporary paths). None of that
helps whoever wrote the network, so none of it is passed on: from their messages the operator is read, and from the
captured graph the layer that calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import fx

from compress.core.errors import StageError
from compress.formats.tflite.advice import load_advice
from compress.graph.capture import call_nodes
from compress.graph.operators import activations

__all__ = ["described", "not_loadable", "unmapped", "untranslatable", "without_integers"]

_NAMED = (
    re.compile(r"Lowering not found: (?:aten[.:]+)?(?P<name>\w+)"),
    re.compile(r"'(?:tfl|stablehlo|chlo|mhlo|vhlo)\.(?P<name>\w+)'"),
    re.compile(r"builtin opcode '(?P<name>\w+)'"),
    re.compile(r"Node number \d+ \((?P<name>\w+)\)"),
    re.compile(r"\b(?:aten|torch\.ops\.aten)[.:]+(?P<name>\w+)"),
)
"""How the converter (first the frontend, then the MLIR dialects) and the interpreter name an operator."""

_SHOWN = 3


def untranslatable(error: BaseException, graph: fx.GraphModule) -> StageError:
    """The converter's exception as one line: the operator that has no form, and the layers that call it."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    return _refusal(graph, _operator_named(str(root)), "LiteRT has no form for")


def not_loadable(error: BaseException, graph: fx.GraphModule) -> StageError:
    """The interpreter's exception about a file that the converter wrote, as one line."""
    return _refusal(graph, _operator_named(str(error)), "LiteRT has no kernel for")


def without_integers(graph: fx.GraphModule, title: str) -> StageError | None:
    """Return why the file is not all in integers: the layers whose operators have no integer kernel. None: no such."""
    nodes = _unknown(graph)
    if not nodes:
        return None
    return StageError(
        f"{title} needs a full-integer file, and LiteRT has no integer kernel for {described(nodes)}",
        fix=_advice(nodes[0]),
    )


def unmapped(graph: fx.GraphModule, kind: str, title: str) -> StageError:
    """A file with an operator that the target's runtime has not."""
    nodes = _calling(graph, load_advice().kinds.get(kind, kind.lower()))
    where = described(nodes) if nodes else kind
    return StageError(
        f"{title}'s runtime has no {kind}, which stands for {where}",
        fix=_advice(nodes[0]) if nodes else load_advice().for_operator(kind),
    )


def described(nodes: Iterable[fx.Node]) -> str:
    """`'pow' in layer '2' (Cube)`, a few of them, each layer once."""
    entries = list(dict.fromkeys(f"{_name(node)!r} in {_layer(node)}" for node in nodes))
    return ", ".join(entries[:_SHOWN]) + (f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else "")


def _refusal(graph: fx.GraphModule, operator: str | None, problem: str) -> StageError:
    """Names the calls of `operator`, else those that are not known to have a form, else the operator alone."""
    nodes = _calling(graph, operator) or _unknown(graph)
    if nodes:
        return StageError(f"{problem} {described(nodes)}", fix=_advice(nodes[0]))
    if operator is not None:
        return StageError(
            f"{problem} {operator!r}, which no layer of the model is named for",
            fix=load_advice().for_operator(operator),
        )
    calls = ", ".join(sorted({_name(node) for node in call_nodes(graph) if _computes(node)}))
    return StageError(
        f"LiteRT's converter failed without naming an operator; the model has {calls}",
        fix=load_advice().for_operator(""),
    )


def _operator_named(text: str) -> str | None:
    match = next((match for pattern in _NAMED if (match := pattern.search(text))), None)
    return None if match is None else match["name"].removeprefix("STABLEHLO_").lower()


def _calling(graph: fx.GraphModule, operator: str | None) -> list[fx.Node]:
    return [node for node in call_nodes(graph) if operator is not None and _name(node) == operator]


def _unknown(graph: fx.GraphModule) -> list[fx.Node]:
    """Calls on activations that are not known to become integer operators."""
    return [node for node in call_nodes(graph) if _computes(node) and not load_advice().converts(_name(node))]


def _computes(node: fx.Node) -> bool:
    return getattr(node.target, "namespace", "") == "aten" and bool(activations(node))


def _name(node: fx.Node) -> str:
    """`pow` of `aten.pow.Tensor_Scalar`."""
    return str(getattr(node.target, "overloadpacket", node.target)).removeprefix("aten.")


def _layer(node: fx.Node) -> str:
    """`layer 'stage2.0.act' (PReLU)`."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = (str(part) for part in stack[-1][:2]) if stack else ("", "")
    path = path.removeprefix("L['self']").lstrip(".")
    module = kind.rpartition(".")[2].rstrip("'>")
    where = f"layer {path!r}" if path else "the model"
    return f"{where} ({module})" if module else where


def _advice(node: fx.Node) -> str:
    return f"{_layer(node)}: {load_advice().for_operator(_name(node))}"
