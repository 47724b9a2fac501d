"""From a live module to an ONNX graph, with errors that fit on one line."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

import onnx_ir as ir
import torch
from torch import fx, nn

from compress.errors import StageError
from compress.onnxfile.interface import INPUT_NAME, OUTPUT_NAME
from compress.quiet import first_line, quiet

if TYPE_CHECKING:
    from compress.types import InputSpec

__all__ = ["CAPTURE_OPSET", "capture"]

CAPTURE_OPSET = 20
"""Newest opset that torch 2.14 writes by default; older ones are reached by `compress.onnxfile.opset`."""

_BATCHNORM = torch.ops.aten.batch_norm.default  # translated only after decomposing

_NO_TRANSLATION = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")


def capture(module: nn.Module, spec: InputSpec, *, dynamic_batch: bool) -> ir.Model:
    """The ONNX graph of `module` at `CAPTURE_OPSET`, as the exporter writes it (not tidied).

    Takes modules and captured graphs, including those that PT2E quantization converted: their explicit
    `quantized_decomposed` operators become QuantizeLinear and DequantizeLinear with the same numbers.

    Raises:
        StageError: the module cannot be captured, or has an operator that ONNX lacks.
    """
    if isinstance(module, fx.GraphModule) and not module.graph.find_nodes(op="call_function", target=_BATCHNORM):
        # functional already, and most likely of nothing but operators that ONNX has
        with suppress(torch.onnx.OnnxExporterError):
            return _translated(_whole(_exported_program(module, spec, dynamic_batch=dynamic_batch)))
    try:
        return _translated(_exported_program(module, spec, dynamic_batch=dynamic_batch))
    except torch.onnx.OnnxExporterError as error:
        raise _untranslatable(error) from error


class _Whole(torch.export.ExportedProgram):
    """A program whose operators are translated as they are.

    Decomposing traces the graph once more, which takes longer than everything else about an export, and comes out as it
    went in where ONNX has every operator: the exporter leaves whole what it can translate.
    """

    def run_decompositions(self, decomp_table: object = None, **_: object) -> torch.export.ExportedProgram:
        return self


def _whole(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """`program` itself, from now on a `_Whole`; translating may edit its graph."""
    program.__class__ = _Whole
    return program


def _translated(program: torch.export.ExportedProgram) -> ir.Model:
    with quiet():
        result = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            optimize=False,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            opset_version=CAPTURE_OPSET,
        )
    assert result is not None
    return result.model


def _exported_program(module: nn.Module, spec: InputSpec, *, dynamic_batch: bool) -> torch.export.ExportedProgram:
    """Capture here and not inside `torch.onnx.export`, which tries twice and reports in pages."""
    # Sizes 0 and 1 are special to torch.export: a batch that must stay free is captured with 2.
    example = torch.zeros(2 if dynamic_batch else 1, *spec.shape)
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever the user's forward raises, and torch.export's own zoo
        fix = "make forward traceable by torch.export (no Python control flow on tensor values)"
        if dynamic_batch:
            fix += ", or dynamic_batch=false if the model fixes its batch size"
        raise StageError(f"torch.export cannot capture the model: {first_line(error)}", fix=fix) from error


def _untranslatable(error: BaseException) -> StageError:
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    match = _NO_TRANSLATION.search(str(root))
    if match:
        return StageError(
            f"ONNX has no form for the operator {match[1]}", fix=f"replace the layer that calls {match[1]}"
        )
    return StageError(f"torch.onnx cannot translate the model: {first_line(root)}")
