"""The known limitations of the Edge TPU's operators, one function each: what is wrong with this one, or None.

Source: https://coral.ai/docs/edgetpu/models-intro/#supported-operations (table 1, column "Known limitations").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from compress.formats.tflite.network import Operator

__all__ = ["RULES", "Rule"]

Rule = Callable[["Operator"], "str | None"]

_LONGEST_SOFTMAX = 16_000
_CHANNEL_MULTIPLE = 4

_LEAST_UNMAPPED_FACTOR = 15
"""Enlargement of a side from which a resize stays on the CPU "to avoid loss in precision": in Coral's own compiled
files, 1 to 33 (both deeplabv3_mnv2) and 33 to 513 (deeplab_mobilenet_edgetpu_slim) do, 2x (movenet) and 1x are mapped;
what lies between is not known, and is taken to be mapped."""

_CHIP_BYTES = 8 << 20
"""What a resize reads and writes has to fit on the chip: 256x256x32 to 512x512x32 is not mapped, 64x64x32 to 128x128x32
is (google-coral/edgetpu#31)."""


def no_fused_activation(operator: Operator) -> str | None:
    return "it has a fused activation" if operator.options.get("fusedActivationFunction", 0) else None


def constant_input_is_zero_padding(operator: Operator) -> str | None:
    stored = [tensor.constant for tensor in operator.inputs if tensor.constant is not None]
    if not stored or (len(operator.inputs) == 2 and not any(np.any(values) for values in stored)):
        return None
    return "it joins a constant that is not all zeros to one other input"


def not_grouped(operator: Operator) -> str | None:
    data, weight = operator.inputs[0].shape[-1:], operator.inputs[1].shape[-1:]
    return None if data == weight else f"a grouped convolution, {weight[0]} of {data[0]} channels at a time"


def same_dilation(operator: Operator) -> str | None:
    width, height = (operator.options.get(f"dilation{side}Factor", 1) for side in "WH")
    return None if width == height else f"dilations {height} and {width} differ"


def not_dilated(operator: Operator) -> str | None:
    dilated = any(operator.options.get(f"dilation{side}Factor", 1) != 1 for side in "WH")
    return "it is dilated" if dilated else None


def default_weights(operator: Operator) -> str | None:
    return "its weights are not in the default format" if operator.options.get("weightsFormat", 0) else None


def vector_output(operator: Operator) -> str | None:
    shape = operator.outputs[0].shape
    return None if sum(size > 1 for size in shape) <= 1 else f"its output {list(shape)} is not one-dimensional"


def no_batch_reduction(operator: Operator) -> str | None:
    return "it reduces the batch" if 0 in _axes(operator) else None


def reduces_space_only(operator: Operator) -> str | None:
    return (
        None if set(_axes(operator)) <= {1, 2} else f"it reduces the axes {_axes(operator)}, not only height and width"
    )


def channels_in_fours(operator: Operator) -> str | None:
    shape = operator.inputs[0].shape
    if len(shape) - 1 in _axes(operator) and shape[-1] % _CHANNEL_MULTIPLE:
        return f"it reduces {shape[-1]} channels, not a multiple of {_CHANNEL_MULTIPLE}"
    return None


def no_batch_axis(operator: Operator) -> str | None:
    return "it packs the batch" if operator.options.get("axis", 1) == 0 else None


def no_batch_padding(operator: Operator) -> str | None:
    return "it pads the batch" if np.any(_stored(operator, 1)[:1]) else None


def pads_space_only(operator: Operator) -> str | None:
    amounts = _stored(operator, 1)
    return "it pads channels" if len(amounts) == 4 and np.any(amounts[3]) else None


def one_dimensional_alpha(operator: Operator) -> str | None:
    shape = operator.inputs[1].shape
    return None if all(size == 1 for size in shape[:-1]) else f"its slopes {list(shape)} differ in space"


def no_half_pixel_centers(operator: Operator) -> str | None:
    return "it uses half-pixel centres" if operator.options.get("halfPixelCenters", False) else None


def moderate_resize(operator: Operator) -> str | None:
    old, new = operator.inputs[0].shape, operator.outputs[0].shape
    if max(after / max(before, 1) for before, after in zip(old[1:3], new[1:3], strict=True)) >= _LEAST_UNMAPPED_FACTOR:
        return f"it enlarges {list(old[1:3])} to {list(new[1:3])}, which the Edge TPU does not compute precisely enough"
    if math.prod(old) + math.prod(new) > _CHIP_BYTES:
        return f"{list(old)} and {list(new)} do not fit on the chip together"
    return None


def short_vector(operator: Operator) -> str | None:
    shape = operator.inputs[0].shape
    if sum(size > 1 for size in shape) > 1:
        return f"its input {list(shape)} is not one-dimensional"
    return f"it has more than {_LONGEST_SOFTMAX} elements" if max(shape, default=0) > _LONGEST_SOFTMAX else None


def no_batch_split(operator: Operator) -> str | None:
    return "it splits the batch" if int(_stored(operator, 0).reshape(-1)[0]) == 0 else None


def leading_ones(operator: Operator) -> str | None:
    shape = operator.inputs[0].shape[1:]
    inner = [size > 1 for size in shape]
    return None if inner == sorted(inner) else f"the ones of {list(shape)} do not come first"


def unit_strides(operator: Operator) -> str | None:
    strides = _stored(operator, 3).reshape(-1)
    return None if np.all(strides == 1) else f"strides {strides.tolist()} are not all 1"


def no_ellipsis(operator: Operator) -> str | None:
    masks = [name for name in ("ellipsisMask", "newAxisMask") if operator.options.get(name, 0)]
    return f"it uses {', '.join(masks)}" if masks else None


def _axes(operator: Operator) -> list[int]:
    rank = len(operator.inputs[0].shape)
    return [int(axis) % rank for axis in _stored(operator, 1).reshape(-1)]


def _stored(operator: Operator, index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    values = operator.inputs[index].constant if index < len(operator.inputs) else None
    return np.zeros((1,), np.int64) if values is None else np.asarray(values, np.int64)


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        no_fused_activation,
        constant_input_is_zero_padding,
        not_grouped,
        same_dilation,
        not_dilated,
        default_weights,
        vector_output,
        no_batch_reduction,
        reduces_space_only,
        channels_in_fours,
        no_batch_axis,
        no_batch_padding,
        pads_space_only,
        one_dimensional_alpha,
        no_half_pixel_centers,
        moderate_resize,
        short_vector,
        no_batch_split,
        leading_ones,
        unit_strides,
        no_ellipsis,
    )
}
"""By the names used in `operators.yaml`."""
