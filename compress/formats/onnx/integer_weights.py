"""Weights as integers with scales: one scale per output, or one per block of inputs; and how ONNX Runtime packs them.

Every scheme is `weight ~ (code - zero_point) * scale`. The scale of min-max covers the largest weight exactly. In a
block it can be searched: the multiple of it with the least squared error may clip a few large weights to resolve the
rest (on a small Llama about 0.5 dB, with 4 as with 8 bits).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks", "PerOutput", "blockwise", "pack", "per_output", "unpack"]

_RATIOS = np.concatenate([[1.0], np.linspace(0.6, 1.15, 23), np.linspace(0.97, 1.03, 13)])
"""Scales tried, as multiples of min-max's, which comes first and so wins ties. Coarse steps over the range for 4 bits,
fine ones around 1 for 8 bits. Above 1 helps too: 8/7 puts the largest 4-bit weight on -7 and leaves +7 unclipped."""

_CHUNK = 1 << 20
"""Weights searched at a time: bounds the temporaries to a few times 4 MiB and keeps them near the cache."""

_Float = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PerOutput:
    """Symmetric signed codes, zero point 0.

    Attributes:
        codes: int8, of the weight's shape.
        scales: float32 `[outputs]`, or `[]` when all outputs share one.
    """

    codes: NDArray[np.int8]
    scales: _Float


@dataclass(frozen=True, eq=False)
class Blocks:
    """Unsigned codes in blocks along the inputs; the last block is filled up with codes that mean 0.

    Attributes:
        codes: uint8 `[outputs, blocks, block_size]`.
        scales: float32 `[outputs, blocks]`; negative where the largest weight of a symmetric block is positive.
        zero_points: uint8 `[outputs, blocks]`.
        bits: width of a code.
    """

    codes: NDArray[np.uint8]
    scales: _Float
    zero_points: NDArray[np.uint8]
    bits: int

    def weights(self, inputs: int) -> _Float:
        """Return the weights that the codes stand for, `[outputs, inputs]`."""
        steps = self.codes.astype(np.float32) - self.zero_points[..., None]
        return (steps * self.scales[..., None]).reshape(len(self.codes), -1)[:, :inputs]


def per_output(weight: _Float, *, limit: int = 127, shared: bool = False) -> PerOutput:
    """Codes in `[-limit, limit]` for `weight` `[outputs, inputs]`.

    Args:
        limit: largest code; 64 keeps pairs of u8 x s8 products within 16 bits (x86 before VNNI adds them up there).
        shared: one scale for all outputs.
    """
    rows = weight.reshape(1, -1) if shared else weight
    scales = _divisor(np.abs(rows).max(axis=1, initial=0) / limit)
    codes = _codes(rows, scales, np.zeros_like(scales), (-limit, limit)).astype(np.int8).reshape(weight.shape)
    return PerOutput(codes, scales.reshape(()) if shared else scales)


def blockwise(weight: _Float, *, bits: int, block_size: int, symmetric: bool, search: bool = True) -> Blocks:
    """Codes in `[0, 2^bits - 1]` for `weight` `[outputs, inputs]`, a scale for every `block_size` inputs.

    Symmetric blocks have the zero point `2^(bits-1)`, and the sign of the scale puts the largest weight on the longer
    side of the codes (the scheme of llama.cpp's Q4_0 and of ONNX Runtime's quantizer). Asymmetric blocks cover the
    range of the block and 0.
    """
    outputs, inputs = weight.shape
    blocks = -(-inputs // block_size)
    padded = np.pad(weight, ((0, 0), (0, blocks * block_size - inputs)))
    rows = padded.reshape(-1, block_size)
    base, zero_points = _symmetric(rows, bits) if symmetric else _asymmetric(rows, bits)
    bounds = (0, 2**bits - 1)
    scales = _scales(rows, base, zero_points, bounds, search)
    codes = _codes(rows, scales, zero_points, bounds).astype(np.uint8)
    return Blocks(
        codes.reshape(outputs, blocks, block_size),
        scales.reshape(outputs, blocks),
        zero_points.astype(np.uint8).reshape(outputs, blocks),
        bits,
    )


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes along the last axis put into bytes, the first one into the low bits; an odd end is filled with 0.

    The layout of MatMulNBits (ONNX Runtime, docs/ContribOperators.md), for 4 and 8 bits.
    """
    if bits == 8:
        return codes
    odd = codes.shape[-1] % 2
    even = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, odd)])
    low, high = even[..., 0::2], even[..., 1::2]
    return low | (high << np.uint8(4))


def unpack(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """The inverse of `pack`: the first `count` codes along the last axis."""
    if bits == 8:
        return packed[..., :count]
    codes = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)
    return codes.reshape(*packed.shape[:-1], -1)[..., :count]


def _symmetric(rows: _Float, bits: int) -> tuple[_Float, _Float]:
    """Scale and zero point per row: the weight of largest magnitude becomes the code 0, that is -2^(bits-1) steps."""
    half = 2 ** (bits - 1)
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)[:, 0]
    base = _divisor(largest / np.float32(-half))
    return base, np.full_like(base, half)


def _asymmetric(rows: _Float, bits: int) -> tuple[_Float, _Float]:
    """Scale and zero point per row: the range, widened to hold 0, is spread over all codes."""
    top = np.float32(2**bits - 1)
    low, high = rows.min(axis=1, initial=0), rows.max(axis=1, initial=0)
    base = _divisor((high - low) / top)
    return base, np.clip(np.rint(-low / base), 0, top)


def _divisor(scales: _Float) -> _Float:
    """`scales` with 1 where a row is all zeros, or so small that its scale is not a normal number."""
    tiny = np.abs(scales) < np.finfo(np.float32).tiny
    return np.where(tiny, np.float32(1), scales).astype(np.float32)


def _scales(rows: _Float, base: _Float, zero_points: _Float, bounds: tuple[int, int], search: bool) -> _Float:
    """`base` or its best multiple for each row, `[rows]`."""
    if not search:
        return base
    best = np.empty_like(base)
    step = max(1, _CHUNK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        best[part] = _searched(rows[part], base[part], zero_points[part], bounds)
    return best


def _searched(rows: _Float, base: _Float, zero_points: _Float, bounds: tuple[int, int]) -> _Float:
    best, least = base, np.full(len(rows), np.inf)
    for ratio in _RATIOS:
        scales = (base * ratio).astype(np.float32)
        steps = _codes(rows, scales, zero_points, bounds) - zero_points[:, None]
        error = np.square(steps * scales[:, None] - rows).sum(axis=1, dtype=np.float64)
        best = np.where(error < least, scales, best)
        least = np.minimum(error, least)
    return best


def _codes(rows: _Float, scales: _Float, zero_points: _Float, bounds: tuple[int, int]) -> _Float:
    """Nearest code of every weight, as floats."""
    nearest: _Float = np.rint(rows / scales[:, None]) + zero_points[:, None]
    return nearest.clip(*bounds)
