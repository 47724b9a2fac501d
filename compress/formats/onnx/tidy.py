"""The exporter's graph without its scaffolding: constants folded, no debugging metadata, nothing unused."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import onnxscript.rewriter
from onnx_ir.passes import common

from compress.formats.onnx.pad_order import quantize_before_padding
from compress.formats.onnx.rewrites import rules_for
from compress.support.quiet import quiet

__all__ = ["merge_equal", "tidy"]


_ROUNDS = 4
"""At most; folding and rewriting make room for each other, on torchvision's networks twice."""


def tidy(model: ir.Model) -> None:
    """Fold constants and BatchNormalization, merge what is equal, drop what is unused and all metadata, in place.

    Quantized weights stay 8 bits wide: the optimizer does not fold QuantizeLinear and DequantizeLinear, and the size
    of the written file is a test.
    """
    with quiet():
        common.InlinePass()(model)
        _lift_constants(model)
        _fold(model)
        if _shapes_are_missing(model):  # asked after folding: until then they are missing of constants, too
            common.ShapeInferencePass()(model)
            _fold(model)
        quantize_before_padding(model)
        _rewrite(model)
        common.LiftSubgraphInitializersToMainGraphPass()(model)
        common.IdentityEliminationPass()(model)
        merge_equal(model)
        common.CommonSubexpressionEliminationPass()(model)
        common.OutputFixPass()(model)
        common.NameFixPass()(model)
        common.ClearMetadataAndDocStringPass()(model)
    for value in _values(model):
        value.metadata_props.clear()
        value.doc_string = None


def _shapes_are_missing(model: ir.Model) -> bool:
    values = (value for node in model.graph.all_nodes() for value in node.outputs)
    return any(value.shape is None or value.type is None for value in values)


def _rewrite(model: ir.Model) -> None:
    """Rewrite until folding finds nothing more and no rule is left to try."""
    tried: set[str] = set()
    for _ in range(_ROUNDS):
        operators = {node.op_type for node in model.graph.all_nodes()}
        if operators <= tried:
            break
        onnxscript.rewriter.rewrite(model, rules_for(operators))
        tried = set() if _fold(model) else operators


def _fold(model: ir.Model) -> bool:
    """Fold until nothing is left to fold, which is cheap; returns whether anything was."""
    folded = False
    for _ in range(_ROUNDS + 1):
        more = onnxscript.optimizer.fold_constants_ir(model).modified
        common.RemoveUnusedNodesPass()(model)
        _lift_constants(model)
        if not more:
            break
        folded = True
    return folded


def _lift_constants(model: ir.Model) -> None:
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def merge_equal(model: ir.Model) -> None:
    """Keep one of each exactly equal initializer; drop unused nodes, initializers, functions and opset imports."""
    _merge_initializers(model.graph)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)
    common.RemoveUnusedOpsetsPass()(model)


def _merge_initializers(graph: ir.Graph) -> None:
    """Equal type, shape and bytes. onnx-ir's own pass refuses weights that are not contiguous in memory."""
    first: dict[tuple[object, ...], ir.Value] = {}
    for name, value in tuple(graph.initializers.items()):
        if value.const_value is None or value.is_graph_output():
            continue
        array = value.const_value.numpy()
        content = hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).digest()
        key = (value.const_value.dtype, array.shape, content)
        kept = first.setdefault(key, value)
        if kept is not value:
            value.replace_all_uses_with(kept)
            del graph.initializers[name]


def _values(model: ir.Model) -> list[ir.Value]:
    inner = [value for node in model.graph.all_nodes() for value in node.outputs]
    return [*model.graph.inputs, *model.graph.initializers.values(), *inner]
