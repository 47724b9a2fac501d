"""The last step of `torch.onnx.export` alone: a captured program to ONNX, every operator as it is.

The steps before it decompose operators, by tracing the program once more, and make type promotion explicit. They change
nothing about a program of one float type whose operators ONNX has, and take longer than all the rest. The last step
alone has no public name: it is called where this PyTorch has it, and `None` sends the program the public way.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from onnxscript.version_converter import convert_version
from torch import fx

from compress.formats.onnx.dequantize import OPERATOR, dequantize_per_channel
from compress.support.quiet import quiet
from compress.support.torch_internals import onnx_translator, tensors_in

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["translate_whole"]

_Translator: TypeAlias = "Callable[[torch.export.ExportedProgram], ir.Model]"


def translate_whole(program: torch.export.ExportedProgram, opset: int) -> ir.Model | None:
    """The ONNX graph of `program` at `opset`; not tidied.

    Returns:
        None if ONNX lacks one of its operators or one mixes types, or if this PyTorch has the step elsewhere.
    """
    translate = _translator(opset)
    if translate is None or not all(_one_float_type(node) for node in program.graph.nodes):
        return None
    try:
        with quiet():
            model = translate(program)
            convert_version(model, opset, fallback=True)  # written for the oldest that the operators of this one need
            return model
    except torch.onnx.OnnxExporterError:
        return None


@functools.cache  # the table of operators takes longer to build than most networks to translate
def _translator(opset: int) -> _Translator | None:
    with quiet():
        step = onnx_translator(opset, {OPERATOR: dequantize_per_channel})
    return None if step is None else lambda program: step(program).model


def _one_float_type(node: fx.Node) -> bool:
    """Tell whether there is nothing to promote; quantize and dequantize operators know their types."""
    if node.op != "call_function" or getattr(node.target, "namespace", None) == "quantized_decomposed":
        return True
    types = {value.dtype for value in tensors_in([source.meta.get("val") for source in node.all_input_nodes])}
    return len(types) <= 1 and all(dtype.is_floating_point for dtype in types)
