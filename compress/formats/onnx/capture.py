"""Capture of a live module as an ONNX graph, with errors that fit on one line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnx_ir as ir
import torch
from torch import fx, nn

from compress.core.errors import ModelError, StageError
from compress.formats.onnx.program import program_of
from compress.formats.onnx.translate import translate_whole
from compress.graph import capture as graph
from compress.support.quiet import first_line, quiet

if TYPE_CHECKING:
    from compress.core.artifact import InputSpec

__all__ = ["CAPTURE_OPSET", "capture"]

CAPTURE_OPSET = 20
"""Newest opset that torch 2.14 writes by default; older ones are reached by `compress.formats.onnx.opset`."""

_NO_TRANSLATION = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")


def capture(module: nn.Module, spec: InputSpec, *, dynamic_batch: bool) -> ir.Model:
    """The ONNX graph of `module` at `CAPTURE_OPSET`, as the exporter writes it: its names, not tidied.

    Takes modules and captured graphs, including those that PT2E quantization converted: their explicit
    `quantized_decomposed` operators become QuantizeLinear and DequantizeLinear with the same numbers.

    Raises:
        StageError: the module cannot be captured, or has an operator that ONNX lacks.
    """
    # What was captured is functional already, and most likely of nothing but operators that ONNX has.
    graph = module if isinstance(module, fx.GraphModule) else _graph(module, spec)
    known = None if dynamic_batch or graph is None else program_of(graph, spec)
    program = known or _exported(module, spec, dynamic_batch=dynamic_batch)
    whole = known is not None or isinstance(module, fx.GraphModule)
    return (translate_whole(program, CAPTURE_OPSET) if whole else None) or _decomposed(program)


def _graph(module: nn.Module, spec: InputSpec) -> fx.GraphModule | None:
    """Return what the stages before captured already; None for what the exporter is to refuse in its own words."""
    try:
        return graph.capture(module, spec)
    except ModelError:
        return None


def _decomposed(program: torch.export.ExportedProgram) -> ir.Model:
    try:
        with quiet():
            result = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False, opset_version=CAPTURE_OPSET)
    except torch.onnx.OnnxExporterError as error:
        raise _untranslatable(error) from error
    assert result is not None
    return result.model


def _exported(module: nn.Module, spec: InputSpec, *, dynamic_batch: bool) -> torch.export.ExportedProgram:
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
