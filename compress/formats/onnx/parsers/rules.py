"""Limits of ONNX parsers that a table cannot say in data, one function each: what is wrong with this node, or None.

The source of each use is in the table that names the rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from compress.formats.onnx.building import attribute_int

__all__ = ["RULES", "Rule", "constant_array"]

Rule = Callable[[ir.Node], "str | None"]

_OUTER_LINEAR, _OUTER_CUBIC = 3, 2

_LARGEST_K = 3840
"""onnx-tensorrt docs/operators.md at release/10.3-GA."""


def constant_array(node: ir.Node, position: int) -> NDArray[np.generic] | None:
    """The numbers of a constant input; None where it is absent or computed."""
    value = node.inputs[position] if position < len(node.inputs) else None
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensor.numpy() if tensor is not None else None


def float32_bounds(node: ir.Node) -> str | None:
    """Clip: the bounds are read as float32 whatever they are."""
    return _not_float32(node, (1, 2), "bounds")


def float32_fill(node: ir.Node) -> str | None:
    """Pad: the constant value is read as float32 whatever it is."""
    return _not_float32(node, (2,), "constant value")


def float32_scale_and_bias(node: ir.Node) -> str | None:
    """InstanceNormalization: scale and bias are read as float32 whatever they are."""
    return _not_float32(node, (1, 2), "scale and bias")


def _not_float32(node: ir.Node, positions: tuple[int, ...], role: str) -> str | None:
    values = [node.inputs[position] for position in positions if position < len(node.inputs)]
    types = {value.dtype for value in values if value is not None}
    if types <= {ir.DataType.FLOAT}:
        return None
    return f"its {role} of type {_names(types)} would be read as float32"


def float32_constants(node: ir.Node) -> str | None:
    """The importer computes with float32 constants of its own, and TensorRT's layers take one type."""
    first = node.inputs[0]
    is_half = first is not None and first.dtype == ir.DataType.FLOAT16
    return "its importer mixes float32 constants with float16" if is_half else None


def float32_factors(node: ir.Node) -> str | None:
    """Gemm: alpha and beta other than 1 become float32 constants."""
    ones = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    return None if ones else float32_constants(node)


def never(node: ir.Node) -> str | None:
    """The importer computes something else than ONNX defines."""
    return "the parser computes something else than ONNX defines"


def pads_not_negative(node: ir.Node) -> str | None:
    pads = constant_array(node, 1)
    if pads is None or not np.any(pads < 0):  # type: ignore[operator]
        return None
    return f"negative pads {pads.tolist()}"


def no_axes(node: ir.Node) -> str | None:
    return "it pads chosen axes" if len(node.inputs) > 3 and node.inputs[3] is not None else None


def average_pool_pads(node: ir.Node) -> str | None:
    """Check that the pads at the end are as large as those at the beginning, or one more."""
    pads = np.reshape(_attribute_ints(node, "pads"), (2, -1))
    ok = np.isin(pads[1] - pads[0], (0, 1)).all()
    return None if ok else f"pads {pads.ravel().tolist()} are neither symmetric nor one more at the end"


def symmetric_3d_pads(node: ir.Node) -> str | None:
    pads = np.reshape(_attribute_ints(node, "pads"), (2, -1))
    asymmetric = pads.shape[1] == 3 and not np.array_equal(pads[0], pads[1])
    return f"asymmetric pads {pads.ravel().tolist()} in 3D" if asymmetric else None


def linear_outer_three(node: ir.Node) -> str | None:
    return _outer(node, "linear", _OUTER_LINEAR)


def cubic_outer_two(node: ir.Node) -> str | None:
    return _outer(node, "cubic", _OUTER_CUBIC)


def _outer(node: ir.Node, mode: str, count: int) -> str | None:
    """Resizing only the last `count` dimensions."""
    scales = constant_array(node, 2)
    if node.attributes.get_string("mode", "nearest") != mode or scales is None or not scales.size:
        return None
    inner = scales[:-count] if len(scales) > count else scales[:0]
    return None if np.all(inner == 1) else f"{mode} resizing of more than the last {count} dimensions"


def constant_scales(node: ir.Node) -> str | None:
    """Resize: without `sizes`, scales must be constant."""
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    return None if sizes is not None or constant_array(node, 2) is not None else "scales computed at run time"


def three_inputs(node: ir.Node) -> str | None:
    return None if len(node.inputs) == 3 and node.inputs[2] is not None else "it has no zero point"


def zero_zero_points(node: ir.Node) -> str | None:
    points = constant_array(node, 2)
    if points is None or not np.any(points):
        return None
    return f"zero point {_few(points)}, only 0 is read"


def int8_codes(node: ir.Node) -> str | None:
    """QuantizeLinear gives, DequantizeLinear takes int8."""
    value = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    point = node.inputs[2] if len(node.inputs) > 2 else None
    dtype = point.dtype if point is not None else value.dtype if value is not None else None
    return None if dtype in (None, ir.DataType.INT8) else f"integers of type {_names({dtype})}, only int8 is read"


def positive_scales(node: ir.Node) -> str | None:
    scales = constant_array(node, 1)
    return None if scales is None or bool(np.all(scales > 0)) else "scales that are not positive"  # type: ignore[operator]


def plain_einsum(node: ir.Node) -> str | None:
    equation = node.attributes.get_string("equation", "") or ""
    return f"an ellipsis in {equation!r}" if "." in equation else einsum_terms(node)


def einsum_terms(node: ir.Node) -> str | None:
    """Dimensions named a to z, each once in a term."""
    equation = node.attributes.get_string("equation", "") or ""
    terms = equation.partition("->")[0].replace(" ", "").replace(".", "").split(",")
    letters = re.sub(r"->|[,. ]", "", equation)
    if not (letters.isascii() and letters.islower()):
        return f"letters other than a to z in {equation!r}"
    return f"a diagonal in {equation!r}" if any(len(set(term)) < len(term) for term in terms) else None


def few_largest(node: ir.Node) -> str | None:
    """TopK: no more than TensorRT's kernel sorts at once."""
    count = constant_array(node, 1)
    if count is None or int(np.max(count)) < _LARGEST_K:
        return None
    return f"k={int(np.max(count))}, read are numbers below {_LARGEST_K}"


def same_both_ways(node: ir.Node) -> str | None:
    """A bidirectional recurrent layer must use the same activations in both directions."""
    names = node.attributes.get_strings("activations", []) or []
    half = len(names) // 2
    twice = node.attributes.get_string("direction", "forward") == "bidirectional"
    return "other activations backwards than forwards" if twice and list(names[:half]) != list(names[half:]) else None


def constant_float_range(node: ir.Node) -> str | None:
    first = node.inputs[0]
    is_float = first is not None and first.dtype is not None and first.dtype.is_floating_point()
    known = all(constant_array(node, position) is not None for position in range(3))
    return "a float range computed at run time" if is_float and not known else None


def integer_mod(node: ir.Node) -> str | None:
    first = node.inputs[0]
    is_float = first is not None and first.dtype is not None and first.dtype.is_floating_point()
    return "fmod=0 on floats" if is_float and not attribute_int(node, "fmod") else None


def no_integer_power(node: ir.Node) -> str | None:
    """Pow: neither base nor exponent may be integers."""
    types = {value.dtype for value in node.inputs if value is not None}
    integers = {dtype for dtype in types if dtype is not None and dtype.is_integer()}
    return f"an operand of type {_names(integers)}" if integers else None


def _attribute_ints(node: ir.Node, name: str) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else [0, 0]


def _names(types: Iterable[ir.DataType | None]) -> str:
    return " and ".join(sorted("unknown" if dtype is None else dtype.numpy().name for dtype in types))


def _few(numbers: NDArray[np.generic]) -> str:
    distinct = np.unique(numbers).tolist()
    return ", ".join(str(number) for number in distinct[:3]) + (", ..." if len(distinct) > 3 else "")


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        average_pool_pads,
        constant_float_range,
        constant_scales,
        cubic_outer_two,
        einsum_terms,
        few_largest,
        float32_constants,
        float32_factors,
        float32_bounds,
        float32_fill,
        float32_scale_and_bias,
        int8_codes,
        integer_mod,
        linear_outer_three,
        never,
        no_axes,
        no_integer_power,
        pads_not_negative,
        plain_einsum,
        positive_scales,
        same_both_ways,
        symmetric_3d_pads,
        three_inputs,
        zero_zero_points,
    )
}
"""By the names used in the tables."""
