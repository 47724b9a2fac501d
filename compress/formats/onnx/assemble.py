"""The steps from a module or a foreign ONNX file to a graph that is ready to be written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common
from torch import nn

from compress.formats.onnx.capture import capture
from compress.formats.onnx.interface import forget_inner_shapes, set_interface
from compress.formats.onnx.opset import Ceiling, lower_opset
from compress.formats.onnx.parsers.fit import fit
from compress.formats.onnx.parsers.table import load_parser
from compress.formats.onnx.tidy import merge_equal, tidy
from compress.formats.onnx.write import read
from compress.support.garbage import collector_paused
from compress.support.quiet import quiet

if TYPE_CHECKING:
    from compress.core.artifact import InputSpec

__all__ = ["finish", "fit_parser", "from_file", "from_module"]


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
    _clean(model)
    return model


def fit_parser(model: ir.Model, parser: str, target: str) -> tuple[str, ...]:
    """Write what the table `parser` does not read with what it does, in place; what was written, in words.

    Args:
        target: the device, for the message.

    Raises:
        StageError: something has no other form; names the operator, its node, what about it, and the fix.
        ConfigError: there is no such table.
    """
    notes = fit(model, load_parser(parser), target)
    if notes:  # hashing the weights of a large model takes seconds
        _clean(model)
    return notes


def _clean(model: ir.Model) -> None:
    with quiet():
        common.NameFixPass()(model)
        merge_equal(model)
