"""Holding a graph against a parser's table: what the parser lacks is written with what it has, or refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx.defs
import onnx_ir as ir
from onnx_ir.passes import common

from compress.core.errors import StageError
from compress.formats.onnx.building import NoOlderForm
from compress.formats.onnx.parsers.forms import FORMS
from compress.formats.onnx.parsers.rules import RULES, constant_array
from compress.formats.onnx.parsers.symmetric import REQUANTIZED
from compress.formats.onnx.parsers.table import Limit, ParserTable
from compress.formats.onnx.replace import new_nodes, replace
from compress.formats.onnx.write import read
from compress.support.quiet import quiet

__all__ = ["Refused", "fit", "refused", "require_read"]

_ROUNDS = 4
"""A form's nodes may need a form themselves; none of `FORMS` goes deeper than two."""

_QUANTIZED_KINDS = ("QLinear", "DynamicQuantize", "ConvInteger", "MatMulInteger")
_SHOWN = 3


@dataclass(frozen=True)
class Refused:
    """A node that the parser does not read.

    Attributes:
        reason: what about it.
        source: where that is written.
    """

    node: ir.Node
    reason: str
    source: str

    def __str__(self) -> str:
        return f"{self.node.op_type} (node {self.node.name!r}): {self.reason}"


def fit(model: ir.Model, table: ParserTable, target: str) -> tuple[str, ...]:
    """Rewrite what `table` does not read, in place; a line for each kind of rewrite.

    Args:
        target: the device, for the message.

    Raises:
        StageError: nodes that have no other form; names each, what about it, and how to go on.
    """
    _infer_what_is_missing(model)
    written: Counter[str] = Counter()
    for _ in range(_ROUNDS):
        left, changed = [], False
        for node in tuple(model.graph.all_nodes()):
            problem = _problem(node, table)
            if problem is None:
                continue
            form, why = _rewritten(node)
            if form is None:
                reason = f"{problem.reason} ({why})" if why else problem.reason
                left.append(Refused(node, reason, problem.source))
            else:
                written[form] += 1
                changed = True
        if not changed:
            break
    left += _bad_values(model, table)
    if left:
        raise _error(left, table, target)
    return (*_told(written), *_requantized(model, table))


def require_read(path: Path, table: ParserTable, target: str) -> None:
    """Refuse an ONNX file that `table` does not read as it is.

    Raises:
        StageError: as `fit`; where another form exists, the fix is the stage that writes it.
    """
    model = read(path)
    _infer_what_is_missing(model)
    left = [*refused(model, table), *_bad_values(model, table)]
    if left:
        known = left[0].node.op_type in FORMS
        raise _error(
            left, table, target, fix="let to_onnx write the file first: it has another form" if known else None
        )


def refused(model: ir.Model, table: ParserTable) -> list[Refused]:
    """List what `table` does not read of a graph as it is."""
    problems = (_problem(node, table) for node in model.graph.all_nodes())
    return [problem for problem in problems if problem is not None]


def _problem(node: ir.Node, table: ParserTable) -> Refused | None:
    """The first thing about `node` that is not read."""
    entry = table.operators.get(node.op_type)
    if entry is None:
        return Refused(node, "not among its operators", table.sources[table.listed])
    value = node.inputs[entry.typed] if entry.typed < len(node.inputs) else None
    dtype = _type_name(value)
    if entry.types and dtype is not None and table.as_read(dtype) not in entry.types:
        allowed = ", ".join(entry.types)
        return Refused(node, f"its input is {dtype}, read are {allowed}", table.sources[entry.source])
    for limit in entry.limits:
        reason = _beyond(node, limit)
        if reason is not None:
            return Refused(node, reason, table.sources[limit.source])
    return None


def _beyond(node: ir.Node, limit: Limit) -> str | None:
    """Return what about `node` is beyond `limit`, if anything."""
    if limit.rule is not None:
        try:
            return RULES[limit.rule](node)
        except NoOlderForm as reason:
            return str(reason)
    if limit.attribute is not None:
        values = _attribute(node, limit.attribute)
        wrong = [value for value in values if value not in limit.allowed]
        allowed = ", ".join(map(str, limit.allowed))
        return f"{limit.attribute}={wrong[0]}, read are {allowed}" if wrong else None
    if limit.outputs is not None:
        used = [index for index, value in enumerate(node.outputs) if value.uses() or value.is_graph_output()]
        return f"output {max(used)} is used" if used and max(used) >= limit.outputs else None
    if limit.constant is not None:
        position = limit.constant
        exists = position < len(node.inputs) and node.inputs[position] is not None
        return (
            f"input {position} is computed at run time" if exists and constant_array(node, position) is None else None
        )
    assert limit.rank is not None
    value = node.inputs[limit.rank] if limit.rank < len(node.inputs) else None
    rank = len(value.shape) if value is not None and value.shape is not None else None
    fits = rank is None or limit.least <= rank <= limit.most
    return None if fits else f"its input has {rank} dimensions, read are {limit.least} to {limit.most}"


def _attribute(node: ir.Node, name: str) -> list[str | int | float]:
    """The attribute's values, ONNX's default where it is absent; a type by its name."""
    if name not in node.attributes:
        schema = onnx.defs.get_schema(node.op_type)
        default = schema.attributes[name].default_value if name in schema.attributes else None
        if default is None or not default.name:
            return []
        value = onnx.helper.get_attribute_value(default)
    else:
        value = node.attributes[name].value
    if name == "to":
        return [_dtype_name(ir.DataType(value))]
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [entry.decode() if isinstance(entry, bytes) else entry for entry in values]


def _rewritten(node: ir.Node) -> tuple[str | None, str | None]:
    """Write `node` in its other form: what it became; or None and why it has none."""
    form = FORMS.get(node.op_type)
    if form is None:
        return None, None
    op_type = node.op_type
    try:
        result = form(node)
    except NoOlderForm as reason:
        return None, str(reason)
    if result is None:
        return f"{op_type} with int8 and zero point 0", None
    kinds = dict.fromkeys(new.op_type for new in new_nodes([result]))
    replace(node, [result])
    return f"{op_type} as {', '.join(kinds) or 'a constant'}", None


def _bad_values(model: ir.Model, table: ParserTable) -> Iterator[Refused]:
    """Constants of types, and tensors of ranks, that the parser has not."""
    for node in model.graph.all_nodes():
        for value in (*node.inputs, *node.outputs):
            reason = _bad_value(value, table) if value is not None else None
            if reason is not None:
                yield Refused(node, reason, table.sources[table.listed])
                break


def _bad_value(value: ir.Value, table: ParserTable) -> str | None:
    dtype = _type_name(value)
    if dtype is not None and table.as_read(dtype) not in table.types:
        return f"{value.name!r} is {dtype}"
    if table.rank is not None and value.shape is not None and len(value.shape) > table.rank:
        return f"{value.name!r} has {len(value.shape)} dimensions, at most {table.rank} are read"
    return None


def _error(left: list[Refused], table: ParserTable, target: str, *, fix: str | None = None) -> StageError:
    first = left[0]
    shown = "; ".join(map(str, left[:_SHOWN])) + (f"; and {len(left) - _SHOWN} more" if len(left) > _SHOWN else "")
    layer = f"replace the layer that makes {first.node.op_type}"
    if first.node.op_type.startswith(_QUANTIZED_KINDS):
        layer = "give the float model, or one quantized with QuantizeLinear and DequantizeLinear"
    return StageError(f"{target}'s parser ({table.parser}) does not read {shown} ({first.source})", fix=fix or layer)


def _told(written: Counter[str]) -> list[str]:
    return [f"{count} {form}" for form, count in written.items()]


def _requantized(model: ir.Model, table: ParserTable) -> list[str]:
    """Report which tensors got a wider step, and forget it."""
    growths = []
    for node in model.graph.all_nodes():
        growth = node.metadata_props.pop(REQUANTIZED, None)
        if growth is not None:
            growths.append(float(growth))
    if not growths:
        return []
    return [
        f"{len(growths)} tensors requantized with steps up to {max(growths):.2f} times as wide, "
        f"because {table.parser} reads zero point 0 only"
    ]


def _infer_what_is_missing(model: ir.Model) -> None:
    values = (value for node in model.graph.all_nodes() for value in node.outputs)
    if any(value.shape is None or value.type is None for value in values):
        with quiet():
            common.ShapeInferencePass()(model)


def _type_name(value: ir.Value | None) -> str | None:
    return _dtype_name(value.dtype) if value is not None and value.dtype is not None else None


def _dtype_name(dtype: ir.DataType) -> str:
    """`float32` for FLOAT, as NumPy calls it."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())
