"""The steps from a module or a foreign ONNX file to a graph that is ready to be written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common
from torch import nn

from compress.garbage import collector_paused
from compress.onnxfile.capture import capture
from compress.onnxfile.interface import forget_inner_shapes, set_interface
from compress.onnxfile.opset import Ceiling, lower_opset
from compress.onnxfile.tidy import merge_equal, tidy
from compress.onnxfile.write import read
from compress.quiet import quiet

if TYPE_CHECKING:
    from compress.types import InputSpec

__all__ = ["finish", "from_file", "from_module"]


@collector_paused()
def from_module(module: nn.Module, spec: InputSpec, *, dynamic_batch: bool) -> ir.Model:
    """The tidied graph of a live module, at the exporter's opset.

    Raises:
        StageError: it cannot be captured or has no ONNX form.
    """
    model = capture(module, spec, dynamic_batch=dynamic_batch)
    set_interface(model, spec, dynamic_batch=dynamic_batch)
    tidy(model)
    return model


def from_file(path: Path, spec: InputSpec, *, dynamic_batch: bool) -> ir.Model:
    """The tidied graph of an ONNX file, with our input and output names and the asked batch.

    Raises:
        StageError: it is not ONNX, or its inputs, outputs or batch do not fit.
    """
    model = read(path)
    common.RemoveInitializersFromInputsPass()(model)
    set_interface(model, spec, dynamic_batch=dynamic_batch)
    forget_inner_shapes(model)
    tidy(model)
    return model


def finish(model: ir.Model, opset: int, ceiling: Ceiling) -> ir.Model:
    """Lower `model` to at most `opset` and drop what that made superfluous; edits and returns it.

    Raises:
        StageError: an operator has no form at `opset`.
    """
    lower_opset(model, opset, ceiling)
    with quiet():
        common.NameFixPass()(model)
        merge_equal(model)
    return model
