"""Weights of matrix products in 8 or 4 bits, arithmetic in float: smaller files for models that are mostly Linear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from compress.core.artifact import Artifact, Format, Precision
from compress.core.stage import Context, Stage
from compress.formats.onnx.ort_target import require_float, require_onnxruntime

if TYPE_CHECKING:
    import onnx_ir as ir

    from compress.core.target import Target
    from compress.formats.onnx.weight_only import BlockScheme

__all__ = ["WeightOnly"]

_LOWEST_SQNR_DB = {8: 25.0, 4: 8.0}
"""Parity floors by bits: small networks measure 37 dB and more with 8 bits, 12 dB and more with 4."""

_INTEGER_ARITHMETIC = 4
"""The `accuracy_level` of MatMulNBits that quantizes activations to int8 as well."""

_FLOAT_OPERATORS = dict.fromkeys(
    ("Conv", "ConvTranspose", "LSTM", "GRU", "RNN"), "only matrix products have a weight-only kernel"
)

_TIED = "its weight is also read by another operator, so packing it would not make the file smaller"


def _power_of_two(number: int) -> int:
    if number & (number - 1):
        raise ValueError("must be a power of two")
    return number


class WeightOnly(Stage):
    """Rewrite an FP32 ONNX file so that the weights of Linear layers are stored in 8 or 4 bits (MatMulNBits).

    The arithmetic stays float, so the artifact keeps its precision; how the weights are stored is in the file's
    metadata under `weights`. With `accuracy_level=4` the runtime may quantize activations to int8 on the fly, and the
    artifact counts as INT8.

    Attributes:
        bits: width of a stored weight.
        block_size: inputs that share a scale, a power of two. Smaller is more accurate and larger: a 4-bit weight takes
            4 + 32 / block_size bits, and 4 / block_size more when asymmetric.
        symmetric: the same zero point everywhere; false stores one for each block.
        scales: `mse` searches the scale of least squared error, `minmax` covers the block's largest weight.
        accuracy_level: least exact arithmetic the runtime may use: 1 float32, 4 int8 activations, 0 its own choice,
            which is float32 on CPUs. ONNX Runtime 1.31 has no float kernel for 8 bits and unpacks the weight on every
            call (an MLP took 7.6x the FP32 time, a small ViT 2.2x; with 4 both were level with FP32).
        exclude: names or `fnmatch` patterns of modules, weights or ONNX nodes to leave alone.
        parity_samples: calibration images on which the file must reproduce its source before it is handed over.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.ONNX})
    produces: ClassVar[Format] = Format.ONNX
    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

    bits: Literal[4, 8] = 8
    block_size: Annotated[int, Field(ge=16, le=4096), AfterValidator(_power_of_two)] = 32
    symmetric: bool = False
    scales: Literal["mse", "minmax"] = "mse"
    accuracy_level: Literal[0, 1, 4] = 0
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    parity_samples: Annotated[int, Field(ge=1)] = 16

    def precision_from(self, precision: Precision) -> Precision:
        return Precision.INT8 if self.accuracy_level == _INTEGER_ARITHMETIC else precision

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        require_float(precision, stage=name)
        target.require_format(Format.ONNX, stage=name)
        target.require_precision(self.precision_from(precision), stage=name)
        require_onnxruntime(target, stage=name, operators="MatMulNBits")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Write the file with packed weights.

        Raises:
            StageError: nothing to quantize, a pattern that matches nothing, or the file is quantized already.
            ParityError: the logits' signal-to-noise ratio against the source is below 25 dB (8 bits) or 8 dB (4 bits).
        """
        from compress.formats.onnx.rewrite import hand_over, open_float
        from compress.formats.parity import Tolerance

        model = open_float(artifact, context.name)
        scheme = self._scheme()
        self._rewrite(model, scheme, context)
        return hand_over(
            model,
            artifact,
            context,
            precision=self.precision_from(artifact.precision),
            scheme=scheme.describe(),
            tolerance=Tolerance(sqnr_db=_LOWEST_SQNR_DB[self.bits]),
            samples=self.parity_samples,
        )

    def _scheme(self) -> BlockScheme:
        from compress.formats.onnx.weight_only import BlockScheme

        return BlockScheme(self.bits, self.block_size, self.symmetric, self.scales == "mse", self.accuracy_level)

    def _rewrite(self, model: ir.Model, scheme: BlockScheme, context: Context) -> None:
        from compress.formats.onnx.linear_layers import (
            StaysFloat,
            choose,
            describe_float,
            find_linears,
            float_nodes,
            read_elsewhere,
        )
        from compress.formats.onnx.weight_only import pack_linears

        linears, others = find_linears(model)
        tied = [linear for linear in linears if read_elsewhere(linear, linears)]
        others += [StaysFloat(linear.names[0], linear.node.op_type, _TIED) for linear in tied]
        chosen = choose(
            [linear for linear in linears if linear not in tied], self.exclude, context.name, kinds="MatMul or Gemm"
        )
        pack_linears(model, chosen, scheme)
        context.progress.log(
            f"{context.name}: weights of {len(chosen)} of {len(linears)} layers as {scheme.describe()}"
        )
        for line in describe_float([*others, *float_nodes(model, _FLOAT_OPERATORS)]):
            context.progress.log(f"{context.name}: {line}")
