"""Parameters, zeros and multiplications of a `.tflite` file, read from the file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from compress.core.artifact import Port
from compress.core.measurement import IntegerShare, Sparsity
from compress.formats.integers import LayerWork, integer_share
from compress.formats.tflite.network import Network, Operator, Tensor, read_network
from compress.formats.tflite.versions import minimum_runtime

__all__ = ["TfliteContents"]

_WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
_INTEGERS = frozenset({"int8", "uint8", "int16"})
_LEARNT = frozenset({"int8", "uint8", "int16", "float16", "float32", "int32"})


class TfliteContents:
    """Figures of a file that is not run for them."""

    def __init__(self, path: Path) -> None:
        self._network: Network = read_network(path)

    def parameters(self) -> int:
        """Weights and biases; shapes, paddings and constants of activations are settings."""
        learnt = {
            tensor.index: tensor for operator in self._weighted() for tensor in _parameters(operator, self._network)
        }
        return sum(0 if tensor.constant is None else tensor.constant.size for tensor in learnt.values())

    def sparsity(self) -> Sparsity:
        """Exact zeros among weights, as stored: an INT8 weight's zero point is 0."""
        zeros = total = 0
        per_layer = {}
        for operator in self._weighted():
            values = _weight(operator, self._network).constant
            if values is None or values.size == 0:
                continue
            nothing = int((np.asarray(values) == _zero(operator)).sum())
            zeros, total = zeros + nothing, total + values.size
            per_layer[operator.outputs[0].label.split("'")[1]] = nothing / values.size
        return Sparsity(zeros, total, per_layer)

    def macs(self) -> int:
        """Multiply-accumulates of convolutions and matrix products, for one sample."""
        return sum(_macs(operator, self._network) for operator in self._weighted())

    def integers(self) -> IntegerShare:
        """Shares of multiply-accumulates between integers and of weights stored as integers.

        Raises:
            NotMeasured: the file has no layer with weights.
        """
        weights = [_weight(operator, self._network) for operator in self._weighted()]
        return integer_share(
            [LayerWork(_macs(operator, self._network), _in_integers(operator)) for operator in self._weighted()],
            weights=sum(math.prod(weight.shape) for weight in weights),
            integer_weights=sum(math.prod(weight.shape) for weight in weights if weight.dtype in _INTEGERS),
        )

    def ports(self) -> tuple[Port, Port]:
        """Input and output as stored: NHWC, often integers."""
        return self._network.inputs[0].port, self._network.outputs[0].port

    def minimum_runtime(self) -> str:
        """Oldest version of TensorFlow Lite's runtime that loads the file."""
        return minimum_runtime(self._network.operators)

    def _weighted(self) -> list[Operator]:
        return [operator for operator in self._network.operators if operator.kind in _WEIGHTED]


def _in_integers(operator: Operator) -> bool:
    data = operator.inputs[2 if operator.kind == "TRANSPOSE_CONV" else 0]  # its first is the output's shape
    return data.dtype in _INTEGERS and operator.inputs[1].dtype in _INTEGERS


def _weight(operator: Operator, network: Network) -> Tensor:
    """The stored weight, also behind the DEQUANTIZE of a half-precision one."""
    tensor = operator.inputs[1]
    maker = network.makers.get(tensor.index)
    return maker.inputs[0] if maker is not None and maker.kind == "DEQUANTIZE" else tensor


def _parameters(operator: Operator, network: Network) -> list[Tensor]:
    others = [tensor for tensor in operator.inputs[2:] if tensor.dtype in _LEARNT]
    return [_weight(operator, network), *others]


def _zero(operator: Operator) -> int:
    quantization = operator.inputs[1].quantization
    return quantization.zero_point[0] if quantization else 0


def _macs(operator: Operator, network: Network) -> int:
    weight, result = _weight(operator, network).shape, operator.outputs[0].shape
    if operator.kind == "DEPTHWISE_CONV_2D":  # weight [1, h, w, channels]
        return math.prod(result) * weight[1] * weight[2]
    if operator.kind == "TRANSPOSE_CONV":  # weight [out, h, w, in], the input is third
        return math.prod(operator.inputs[2].shape) * math.prod(weight[:3])
    return math.prod(result) * math.prod(weight[1:])
