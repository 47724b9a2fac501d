"""The passes that are tried, in order: libraries' optimizers first, then what they leave over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from compress.formats.onnx.ort_graph import Level, write_optimized
from compress.formats.onnx.tidy import tidy
from compress.optimize.pooling import flatten_in_pooling
from compress.optimize.saturation import drop_saturated_activations
from compress.support.quiet import quiet
from compress.support.scratch import scratch_folder

__all__ = ["ONNXRUNTIME_ONLY", "PASSES", "GraphPass", "passes"]

_HARDSWISH_OPSET = 14

ONNXRUNTIME_ONLY = "ort_extended"
"""The pass whose result nothing but ONNX Runtime executes."""


@dataclass(frozen=True)
class GraphPass:
    """One way to rewrite a graph.

    Attributes:
        does: in a few words, for the user.
        run: takes a model it may edit and returns the new one. Raises whatever the library behind it raises.
    """

    name: str
    does: str
    run: Callable[[onnx.ModelProto], onnx.ModelProto]


def _onnxscript(model: ir.Model) -> None:
    """Shape simplification, constants, common subexpressions, dead code, Pad and BatchNormalization into Conv."""
    common.RemoveInitializersFromInputsPass()(model)
    tidy(model)


def _hardswish(model: ir.Model) -> None:
    """Add, Clip, Mul and Div as the HardSwish or HardSigmoid they spell, where the opset has it."""
    from onnxscript.rewriter import RewritePass
    from onnxscript.rewriter.rules.common._fuse_hardswish import fuse_hardswish_rules

    if model.opset_imports[""] >= _HARDSWISH_OPSET:
        RewritePass(fuse_hardswish_rules())(model)


def _flatten_in_pooling(model: ir.Model) -> None:
    common.ShapeInferencePass()(model)
    flatten_in_pooling(model)


def _in_ir(edit: Callable[[ir.Model], None]) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """A pass that edits an `onnx_ir` model in place, on protobufs."""

    def run(proto: onnx.ModelProto) -> onnx.ModelProto:
        model = ir.serde.deserialize_model(proto)
        with quiet():
            edit(model)
            common.RemoveUnusedNodesPass()(model)
        return ir.serde.serialize_model(model)

    return run


def _onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    with quiet():
        slimmed: onnx.ModelProto = onnxslim.slim(model)
    return slimmed


def _onnxruntime(level: Level, architecture: str) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def run(model: onnx.ModelProto) -> onnx.ModelProto:
        with scratch_folder() as folder:
            source, path = folder / "source.onnx", folder / "optimized.onnx"
            onnx.save(model, source)
            write_optimized(source, path, level=level, architecture=architecture)
            return onnx.load(path)

    return run


PASSES: dict[str, tuple[str, Callable[[str], Callable[[onnx.ModelProto], onnx.ModelProto]]]] = {
    "onnxscript": ("onnxscript's optimizer and rewrite rules", lambda _: _in_ir(_onnxscript)),
    "onnxslim": ("OnnxSlim", lambda _: _onnxslim),
    "ort_basic": (
        "ONNX Runtime's offline optimizer, level basic",
        lambda architecture: _onnxruntime("basic", architecture),
    ),
    "hardswish": ("HardSwish and HardSigmoid out of their parts", lambda _: _in_ir(_hardswish)),
    "saturation": (
        "Relu and Clip that the QuantizeLinear behind them performs already",
        lambda _: _in_ir(drop_saturated_activations),
    ),
    "pooling": ("Reshape behind a global mean", lambda _: _in_ir(_flatten_in_pooling)),
    ONNXRUNTIME_ONLY: (
        "ONNX Runtime's offline optimizer, level extended",
        lambda architecture: _onnxruntime("extended", architecture),
    ),
}
"""What each pass does, and how to make it for a device of a given architecture."""


def passes(names: Sequence[str], architecture: str) -> list[GraphPass]:
    """The passes called `names`, in that order, for a device of `architecture`."""
    return [GraphPass(name, PASSES[name][0], PASSES[name][1](architecture)) for name in names]
