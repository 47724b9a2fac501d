"""Dynamic INT8 for matrix products and LSTM layers: integer weights, activation ranges found while the model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import StageError
from compress.core.stage import Context, Stage
from compress.formats.onnx.ort_target import require_float, require_onnxruntime

if TYPE_CHECKING:
    import onnx_ir as ir

    from compress.core.target import Target

__all__ = ["Dynamic"]

_LOWEST_SQNR_DB = 15.0
"""Parity floor, noise of 3 % of the logits' energy: small networks measure 31 to 53 dB, a collapsed layer is below."""

_FLOAT_OPERATORS = {
    "Conv": "ptq_static quantizes convolutions",
    "ConvTranspose": "ptq_static quantizes convolutions",
    "GRU": "ONNX Runtime has no integer kernel for it",
    "RNN": "ONNX Runtime has no integer kernel for it",
}


class Dynamic(Stage):
    """Rewrite an FP32 ONNX file so that Linear and LSTM layers compute in INT8; no calibration is needed.

    Weights are symmetric int8, activations uint8 with one range per tensor, measured on every call. Products of two
    activations (attention), GRU, RNN and convolutions stay float and are listed. A batch shares its ranges, so a
    sample's logits depend slightly on its neighbours; on a device that runs one sample at a time they do not.

    Attributes:
        per_channel: a weight scale for each output instead of one per layer.
        op_types: kinds of layers to quantize.
        exclude: names or `fnmatch` patterns of modules, weights or ONNX nodes to leave float.
        reduce_range: weights in 7 bits, for CPUs whose 8-bit multiply-add saturates; null asks the target.
        parity_samples: calibration images on which the file must reproduce its source before it is handed over.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.ONNX})
    produces: ClassVar[Format] = Format.ONNX
    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

    per_channel: bool = True
    op_types: Annotated[tuple[Literal["matmul", "lstm"], ...], Field(min_length=1)] = ("matmul", "lstm")
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    reduce_range: bool | None = None
    parity_samples: Annotated[int, Field(ge=1)] = 16

    def precision_from(self, precision: Precision) -> Precision:
        return Precision.INT8

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        require_float(precision, stage=name)
        target.require_format(Format.ONNX, stage=name)
        target.require_precision(Precision.INT8, stage=name)
        require_onnxruntime(target, stage=name, operators="DynamicQuantizeLinear and MatMulInteger")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write the quantized file.

        Raises:
            StageError: nothing to quantize, a pattern that matches nothing, or the file is quantized already.
            ParityError: the logits' signal-to-noise ratio against the source is below 15 dB.
        """
        from compress.formats.onnx.rewrite import hand_over, open_float
        from compress.formats.parity import Tolerance

        model = open_float(artifact, context.name)
        self._rewrite(model, context)
        return hand_over(
            model,
            artifact,
            context,
            precision=Precision.INT8,
            scheme=f"int8 {'per output channel' if self.per_channel else 'per tensor'}, symmetric; dynamic activations",
            tolerance=Tolerance(sqnr_db=_LOWEST_SQNR_DB),
            samples=self.parity_samples,
        )

    def _rewrite(self, model: ir.Model, context: Context) -> None:
        from compress.formats.onnx.dynamic_lstm import Lstm, find_lstms, quantize_lstms
        from compress.formats.onnx.dynamic_quant import FULL_RANGE, OLDEST_OPSET, REDUCED_RANGE, quantize_linears
        from compress.formats.onnx.linear_layers import Linear, choose, describe_float, find_linears, float_nodes

        _require_opset(model, OLDEST_OPSET, context.name)
        linears, float_linears = find_linears(model) if "matmul" in self.op_types else ([], [])
        lstms, float_lstms = find_lstms(model) if "lstm" in self.op_types else ([], [])
        layers: list[Linear | Lstm] = [*linears, *lstms]
        chosen = choose(layers, self.exclude, context.name, kinds=_kinds(self.op_types))
        limit = REDUCED_RANGE if self._reduced(context.target) else FULL_RANGE
        quantize_linears(
            [layer for layer in chosen if isinstance(layer, Linear)],
            per_channel=self.per_channel,
            limit=limit,
        )
        quantize_lstms(
            model,
            [layer for layer in chosen if isinstance(layer, Lstm)],
            per_channel=self.per_channel,
            limit=limit,
        )
        context.progress.log(f"{context.name}: {len(chosen)} of {len(layers)} layers in INT8")
        for line in describe_float([*float_linears, *float_lstms, *float_nodes(model, _FLOAT_OPERATORS)]):
            context.progress.log(f"{context.name}: {line}")

    def _reduced(self, target: Target) -> bool:
        if self.reduce_range is not None:
            return self.reduce_range
        return target.int8 is not None and target.int8.reduce_range


def _kinds(op_types: tuple[str, ...]) -> str:
    words = {"matmul": "MatMul or Gemm", "lstm": "LSTM"}
    return " or ".join(words[op_type] for op_type in op_types)


def _require_opset(model: ir.Model, oldest: int, stage: str) -> None:
    opset = model.opset_imports.get("", oldest)
    if opset < oldest:
        raise StageError(
            f"stage {stage!r}: the file is of ONNX opset {opset}, dynamic quantization needs {oldest} or newer",
            fix="export it again with a newer opset",
        )
