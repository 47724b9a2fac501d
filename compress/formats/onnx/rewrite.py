"""Rewriting of one ONNX file as another: open it for quantizing, and hand over the result once it is proven."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common

from compress.core.errors import StageError
from compress.formats.onnx.fold_weights import fold_weights
from compress.formats.onnx.metadata import metadata
from compress.formats.onnx.write import read, write_checked
from compress.formats.parity import check_export
from compress.support.files import atomic_path
from compress.support.quiet import quiet

if TYPE_CHECKING:
    from compress.core.artifact import Artifact, Precision
    from compress.core.stage import Context
    from compress.formats.parity import Tolerance

__all__ = ["hand_over", "open_float"]

SCHEME_KEY = "weights"
"""Metadata: how the weights are stored, in words."""


def open_float(artifact: Artifact, stage: str) -> ir.Model:
    """The graph of an ONNX artifact that nothing has quantized yet; functions inlined, every node
    named, weights folded.

    Raises:
        StageError: it is not ONNX, or it is quantized.
    """
    model = read(artifact.path)
    with quiet():
        common.InlinePass()(model)
        common.RemoveInitializersFromInputsPass()(model)
        common.NameFixPass()(model)
    for node in model.graph.all_nodes():
        if _quantizes(node.op_type):
            raise StageError(
                f"stage {stage!r}: {artifact.path} is quantized already (it has {node.op_type}, node {node.name!r})",
                fix=f"give it the float file: stage.{stage}.source=<the stage that exports it>, or ~stage.{stage}",
            )
    fold_weights(model)
    return model


def hand_over(
    model: ir.Model,
    artifact: Artifact,
    context: Context,
    *,
    precision: Precision,
    scheme: str,
    tolerance: Tolerance,
    samples: int,
) -> Artifact:
    """Write `model` as the stage's file, unless it differs from its source `artifact` by more than `tolerance`.

    The file keeps the opset, interface and metadata of the source; history, precision and `scheme` (how the weights are
    stored, in words) are new.

    Args:
        samples: calibration images that are compared.

    Raises:
        ParityError: it differs.
        StageError: it is not valid ONNX, or cannot be written.
    """
    with quiet():
        common.NameFixPass()(model)
        common.RemoveUnusedNodesPass()(model)
    path = context.folder / f"{context.name}.onnx"
    result = artifact.after(context.name, path, precision=precision)
    text = {**model.metadata_props, **metadata(result.input, precision, result.history), SCHEME_KEY: scheme}
    with atomic_path(path) as temporary:
        write_checked(model, temporary, text)
        check_export(
            artifact, replace(result, model=temporary), context.splits.calibration, samples, tolerance=tolerance
        )
    return result


def _quantizes(op_type: str) -> bool:
    """QuantizeLinear, DequantizeLinear, DynamicQuantizeLSTM; QLinearConv; MatMulInteger; MatMulNBits and their kin."""
    return "uantize" in op_type or op_type.startswith("QLinear") or op_type.endswith(("Integer", "NBits"))
