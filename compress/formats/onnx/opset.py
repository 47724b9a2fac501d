"""Lowering a graph to an older ONNX operator set, for parsers that stopped there (TensorRT 8.2 reads 13, 8.5 reads 17).

The table is complete by construction: `onnx.defs` says for every operator whether its definition differs between the
two opsets, and an operator that differs and has no rule in `older_forms.RULES` is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx.defs
import onnx_ir as ir

from compress.core.errors import StageError
from compress.formats.onnx.older_forms import RULES, NoOlderForm
from compress.formats.onnx.replace import replace

__all__ = ["OLDEST_OPSET", "Ceiling", "lower_opset"]

OLDEST_OPSET = 13
"""The rules reach back to 13, where QuantizeLinear gained per-channel scales; no target's parser stops earlier."""


@dataclass(frozen=True)
class Ceiling:
    """The newest opset a file may use, `None` for any, and the words that say why, as in `X's parser stops at 13`."""

    opset: int | None
    reason: str


def lower_opset(model: ir.Model, opset: int, ceiling: Ceiling) -> None:
    """Rewrite `model` in place so that it uses ONNX opset `opset`; a model that is already there or lower stays.

    Raises:
        StageError: an operator has no form at `opset` or is not an ONNX operator at all; names the opset it needs, and
            as fix that opset where `ceiling` allows it.
    """
    _refuse_foreign_operators(model)
    source = model.opset_imports.get("", opset)
    if source <= opset:
        return
    for node in tuple(model.graph.all_nodes()):
        if _since(node.op_type, source) != _since(node.op_type, opset):
            _lower(node, source, opset, ceiling)
    model.opset_imports[""] = opset


def _lower(node: ir.Node, source: int, opset: int, ceiling: Ceiling) -> None:
    try:
        rule = RULES.get(node.op_type)
        if rule is None:
            raise NoOlderForm(f"its definition is newer than opset {opset}")
        expansion = rule(node, source, opset)
    except NoOlderForm as reason:
        raise _refusal(node, opset, str(reason), ceiling) from None
    if expansion is not None:
        replace(node, [expansion])


def _refusal(node: ir.Node, opset: int, reason: str, ceiling: Ceiling) -> StageError:
    needed = _first_above(node.op_type, opset)
    allowed = ceiling.opset is None or needed <= ceiling.opset
    return StageError(
        f"op {node.op_type} (node {node.name!r}) needs opset {needed}: {reason}; "
        + (f"opset {opset} was asked for" if allowed else ceiling.reason),
        fix=f"opset={needed}" if allowed else f"replace the layer that makes {node.op_type}",
    )


def _refuse_foreign_operators(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            raise StageError(
                f"op {node.domain}.{node.op_type} (node {node.name!r}) is not an ONNX operator, device parsers lack it",
                fix="export the model with standard ONNX operators only",
            )


def _since(op_type: str, opset: int) -> int | None:
    """Opset that last changed the definition in force at `opset`; None where the operator did not exist yet."""
    try:
        return int(onnx.defs.get_schema(op_type, opset).since_version)
    except onnx.defs.SchemaError:
        return None


def _first_above(op_type: str, opset: int) -> int:
    versions = (schema.since_version for schema in onnx.defs.get_all_schemas_with_history() if schema.name == op_type)
    return min((version for version in versions if version > opset), default=opset)
