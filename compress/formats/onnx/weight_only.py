"""Matrix products with 4- or 8-bit weights and float activations: ONNX Runtime's own operator MatMulNBits.

The weight is unpacked block by block while it is multiplied, so what shrinks is the file and the memory traffic. Runs
in ONNX Runtime from 1.17 (4 bits) and 1.22 (8 bits).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.formats.onnx.building import constant
from compress.formats.onnx.integer_weights import blockwise, pack
from compress.formats.onnx.linear_layers import Linear
from compress.formats.onnx.replace import replace

__all__ = ["BlockScheme", "pack_linears"]

_DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class BlockScheme:
    """Scheme in which weights are stored.

    Attributes:
        bits: 4 or 8.
        block_size: inputs that share a scale; a power of two, at least 16. The last block of a row is filled up.
        symmetric: fixed zero point; otherwise each block stores its own.
        search: scales of least squared error instead of min-max.
        accuracy_level: arithmetic the runtime may use: 0 and 1 float32, 4 int8 activations where it has such a kernel.
    """

    bits: int
    block_size: int
    symmetric: bool
    search: bool
    accuracy_level: int

    def describe(self) -> str:
        kind = "symmetric" if self.symmetric else "asymmetric"
        return f"int{self.bits} in blocks of {self.block_size} inputs, {kind} (MatMulNBits)"


def pack_linears(model: ir.Model, linears: Sequence[Linear], scheme: BlockScheme) -> None:
    """Rewrite `linears` of the main graph in place; products that share a weight share its codes. Biases stay."""
    stored: dict[tuple[ir.Value, bool, float], list[ir.Value]] = {}
    for linear in linears:
        model.opset_imports[_DOMAIN] = 1
        if linear.key not in stored:
            stored[linear.key] = _constants(linear, scheme)
        replace(linear.node, [_product(linear, stored[linear.key], scheme)])


def _constants(linear: Linear, scheme: BlockScheme) -> list[ir.Value]:
    """Codes `[N, blocks, bytes]` uint8, scales `[N * blocks]` float32 and, unless symmetric, packed zero points."""
    blocks = blockwise(
        linear.weight_by_output(),
        bits=scheme.bits,
        block_size=scheme.block_size,
        symmetric=scheme.symmetric,
        search=scheme.search,
    )
    arrays: dict[str, NDArray[np.generic]] = {
        "codes": pack(blocks.codes, scheme.bits),
        "scales": blocks.scales.reshape(-1),
    }
    if not scheme.symmetric:
        arrays["zero_points"] = pack(blocks.zero_points, scheme.bits).reshape(-1)
    return [constant(linear.node, array, role) for role, array in arrays.items()]


def _product(linear: Linear, constants: Sequence[ir.Value], scheme: BlockScheme) -> ir.Value:
    outputs, inputs = linear.shape
    numbers = {
        "K": inputs,
        "N": outputs,
        "bits": scheme.bits,
        "block_size": scheme.block_size,
    }
    if scheme.accuracy_level:
        numbers["accuracy_level"] = scheme.accuracy_level
    attributes = [ir.AttrInt64(name, number) for name, number in numbers.items()]
    node = ir.Node(_DOMAIN, "MatMulNBits", [linear.activation, *constants], attributes, num_outputs=1)
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return linear.replaced_by(node.outputs[0])
