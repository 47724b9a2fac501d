"""The older form of every ONNX operator that has one: a table from operator to rule.

A rule gets the node, the opset it is written in and the one wanted. It edits the node in place and returns None, or
returns the value that replaces the node's output (new nodes hang behind it), or raises `NoOlderForm`.
Source of every difference: the ONNX operator changelog, https://onnx.ai/onnx/operators/ (versions in comments).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.defs
import onnx_ir as ir

from compress.formats.onnx import expansions
from compress.formats.onnx.building import NoOlderForm, attribute_int, constant_ints, integers, rank_of

__all__ = ["RULES", "NoOlderForm", "Rule"]

Rule = Callable[[ir.Node, int, int], "ir.Value | None"]


def drop_defaults(node: ir.Node, source: int, opset: int) -> None:
    """Only types were added, or attributes and trailing inputs whose default is the old meaning: drop those."""
    older = onnx.defs.get_schema(node.op_type, opset)
    newer = onnx.defs.get_schema(node.op_type, source)
    for name in [name for name in node.attributes if name not in older.attributes]:
        default = newer.attributes[name].default_value
        value = node.attributes[name].value
        meaning = onnx.helper.get_attribute_value(default) if default.name else None
        meaning = meaning.decode() if isinstance(meaning, bytes) else meaning
        if value != meaning:
            raise NoOlderForm(f"attribute {name}={value!r} is newer than opset {opset}")
        node.attributes.pop(name)
    _drop_empty_inputs(node, older.max_input)


def _drop_empty_inputs(node: ir.Node, allowed: int) -> None:
    count = len(node.inputs)
    while count > allowed and node.inputs[count - 1] is None:
        count -= 1
    if count > allowed:
        raise NoOlderForm(f"it has {count} inputs and its older form {allowed}")
    node.resize_inputs(count)


def reduce(node: ir.Node, source: int, opset: int) -> ir.Value | None:
    """ReduceMean and its kin, 18: `axes` became an input, `noop_with_empty_axes` appeared."""
    if opset >= 18 or source < 18:
        drop_defaults(node, source, opset)
        return None
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    noop = attribute_int(node, "noop_with_empty_axes")
    values = constant_ints(axes, "axes") if axes is not None else []
    if not values and noop:
        if node.op_type not in _IDENTITY_OF_ONE:
            raise NoOlderForm("noop_with_empty_axes=1 is newer")
        return expansions.identity(node)
    if values:
        node.attributes["axes"] = ir.AttrInt64s("axes", values)
    node.attributes.pop("noop_with_empty_axes", None)
    node.resize_inputs(1)
    return None


def split(node: ir.Node, source: int, opset: int) -> None:
    """Split, 18: `num_outputs`; without it, equal parts are the old meaning and unequal ones need their sizes."""
    if opset < 18 <= source and node.attributes.pop("num_outputs", None) is not None:
        parts = len(node.outputs)
        size = _axis_size(node)
        if size is not None and size % parts:
            step = -(-size // parts)  # "the last chunk is smaller", Split-18
            sizes = [step] * (parts - 1) + [size - step * (parts - 1)]
            node.resize_inputs(2)
            node.replace_input_with(1, integers(node, sizes, "split"))
    drop_defaults(node, source, opset)


def _axis_size(node: ir.Node) -> int | None:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None:
        raise NoOlderForm("the size of the split axis is not known")
    size = shape[attribute_int(node, "axis")]
    return size if isinstance(size, int) else None


def pad(node: ir.Node, source: int, opset: int) -> None:
    """Pad, 18: `axes` input (spread over all axes here); 19: mode wrap."""
    if opset < 19 and node.attributes.get_string("mode", "constant") == "wrap":
        raise NoOlderForm("mode wrap is newer")
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    if opset < 18 and axes is not None:
        rank, pads = rank_of(node, 0), constant_ints(node.inputs[1], "pads")
        chosen = [axis % rank for axis in constant_ints(axes, "axes")]
        full = np.zeros((2, rank), dtype=np.int64)
        full[:, chosen] = np.reshape(pads, (2, -1))
        node.replace_input_with(1, integers(node, full.ravel().tolist(), "pads"))
        node.replace_input_with(3, None)
    drop_defaults(node, source, opset)


def reshape(node: ir.Node, source: int, opset: int) -> None:
    """Reshape, 14: `allowzero` makes a 0 in the shape mean an empty dimension; it changes nothing without a 0.

    A shape computed at run time comes from sizes of the images and is never 0.
    """
    if opset < 14 and attribute_int(node, "allowzero"):
        sizes = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
        if sizes is not None and 0 in sizes.numpy():
            raise NoOlderForm("a size of 0 with allowzero=1 is newer")
        node.attributes.pop("allowzero")
    drop_defaults(node, source, opset)


def resize(node: ir.Node, source: int, opset: int) -> None:
    """Resize, 18: antialias, keep_aspect_ratio_policy, axes; 19: half_pixel_symmetric."""
    if opset < 19 and node.attributes.get_string("coordinate_transformation_mode") == "half_pixel_symmetric":
        raise NoOlderForm("coordinate mode half_pixel_symmetric is newer")
    if opset < 18 and "axes" in node.attributes:
        axes = list(node.attributes["axes"].as_ints())
        if [axis % rank_of(node, 0) for axis in axes] != list(range(rank_of(node, 0))):
            raise NoOlderForm(f"attribute axes={axes} is newer")
        node.attributes.pop("axes")
    drop_defaults(node, source, opset)


def pool(node: ir.Node, source: int, opset: int) -> None:
    """AveragePool, 19 and LpPool, 18: `dilations`, which are 1 unless given."""
    older = onnx.defs.get_schema(node.op_type, opset)
    dilations = node.attributes.get("dilations")
    if dilations is not None and "dilations" not in older.attributes and set(dilations.as_ints()) == {1}:
        node.attributes.pop("dilations")
    drop_defaults(node, source, opset)


def shape(node: ir.Node, source: int, opset: int) -> ir.Value | None:
    """Shape, 15: `start` and `end`, before that the whole shape is sliced."""
    if opset < 15 and (attribute_int(node, "start") or "end" in node.attributes):
        return expansions.sliced_shape(node)
    drop_defaults(node, source, opset)
    return None


def quantize(node: ir.Node, source: int, opset: int) -> None:
    """QuantizeLinear, 19 to 23: `saturate`, `output_dtype`, `block_size`, `precision` and types beyond 8 bits."""
    output_dtype = attribute_int(node, "output_dtype")
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    if opset < 21 and output_dtype and zero_point is not None and zero_point.dtype in (None, ir.DataType(output_dtype)):
        node.attributes.pop("output_dtype")
    _float32_scale(node, opset)
    drop_defaults(node, source, opset)


def dequantize(node: ir.Node, source: int, opset: int) -> None:
    """DequantizeLinear, 19 to 23: float16 scales, `output_dtype`, `block_size` and types beyond 8 bits."""
    scale = node.inputs[1]
    if opset < 23 and scale is not None and attribute_int(node, "output_dtype") == scale.dtype:
        node.attributes.pop("output_dtype")
    _float32_scale(node, opset)
    drop_defaults(node, source, opset)


def _float32_scale(node: ir.Node, opset: int) -> None:
    scale = node.inputs[1]
    if opset < 19 and scale is not None and scale.dtype not in (None, ir.DataType.FLOAT):
        raise NoOlderForm(f"a scale of type {scale.dtype} is newer, float32 is the only one at {opset}")


def grid_sample(node: ir.Node, source: int, opset: int) -> None:
    """GridSample, 20: modes linear and cubic were bilinear and bicubic."""
    if opset < 16:
        raise NoOlderForm("it is first defined there")
    mode = node.attributes.get_string("mode", "linear")
    older = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    node.attributes["mode"] = ir.AttrString("mode", older)


def only_below(first: int, expansion: Callable[[ir.Node], ir.Value]) -> Rule:
    """An operator that opset `first` introduced and that simpler operators compute below it."""

    def rule(node: ir.Node, source: int, opset: int) -> ir.Value | None:
        if opset < first:
            return expansion(node)
        drop_defaults(node, source, opset)
        return None

    return rule


def group_norm(node: ir.Node, source: int, opset: int) -> ir.Value | None:
    """GroupNormalization: new in 18 with scale and bias per group, per channel since 21."""
    if source < 21 and opset >= 18:
        drop_defaults(node, source, opset)
        return None
    return expansions.group_normalization(node, per_channel=source >= 21)


_SAME_MEANING = """
Acos Acosh Add Asin Asinh Atan Atanh BatchNormalization BitShift Cast Celu Compress Constant ConstantOfShape Conv
ConvTranspose Cos Cosh CumSum DepthToSpace Det Div Dropout Einsum Elu Equal EyeLike Flatten GRU GlobalAveragePool
GlobalLpPool GlobalMaxPool GreaterOrEqual HardSigmoid Identity If InstanceNormalization IsInf IsNaN LSTM LeakyRelu
LessOrEqual Loop LpNormalization MaxPool MaxRoiPool MaxUnpool Mod Mul OneHot PRelu Pow QLinearMatMul RNN Range Relu
ReverseSequence Round Scan ScatterElements ScatterND Selu Sin Sinh Size Softplus Softsign SpaceToDepth Squeeze
Sub Tan ThresholdedRelu TopK Transpose Unsqueeze Where
""".split()  # noqa: SIM905 - a literal would take a line per name
_REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)

_IDENTITY_OF_ONE = frozenset({"ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"})
"""Reducing a single element gives that element back; the others take its square or absolute value."""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME_MEANING, drop_defaults),
    **dict.fromkeys(_REDUCTIONS, reduce),
    "AveragePool": pool,
    "CastLike": only_below(15, expansions.cast_like),
    "DequantizeLinear": dequantize,
    "Gelu": only_below(20, expansions.gelu),
    "GridSample": grid_sample,
    "GroupNormalization": group_norm,
    "HardSwish": only_below(14, expansions.hard_swish),
    "LayerNormalization": only_below(17, expansions.layer_normalization),
    "LpPool": pool,
    "Mish": only_below(18, expansions.mish),
    "Pad": pad,
    "QuantizeLinear": quantize,
    "Reshape": reshape,
    "Resize": resize,
    "Shape": shape,
    "Split": split,
    "Swish": only_below(24, expansions.swish),
}
