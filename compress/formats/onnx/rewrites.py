"""onnxscript's rewrite rules, by the operator that each starts from, so that a graph is searched for what it can have.

Its own default tries all of them at every node, which takes longer than all else that is done to a graph. Its
`slice_split_rule` is left out: it lists all nodes of the graph at every node.
"""

from __future__ import annotations

from collections.abc import Collection

from onnxscript.rewriter import RewriteRule
from onnxscript.rewriter.rules import common

__all__ = ["rules_for"]

# In the order of onnxscript's default: some rules make what later ones start from.
_RULES: tuple[tuple[str, tuple[RewriteRule, ...]], ...] = (
    ("Mul", tuple(common.mul_by_1_rule.commute())),
    ("Add", tuple(common.add_0_rule.commute())),
    ("Sub", (common.sub_0_rule,)),
    ("Div", (common.div_by_1_rule,)),
    ("Dropout", (common.dropout_zero_rule, common.dropout_inference_rule)),
    ("MatMul", (common.two_reshapes_matmul_reshape_rule, common.one_reshape_matmul_reshape_rule)),
    ("ConstantOfShape", (common.cast_constant_of_shape_rule, common.cast_constant_of_shape_without_value_rule)),
    ("Slice", (common.collapse_slice_rule, common.collapse_slice2_rule)),
    ("Reshape", (common.materialize_reshape_shape_rule,)),
    ("Min", (common.min_min_rule,)),
    ("Max", (common.max_max_rule, common.min_max_rule)),
    ("Min", (common.max_min_rule,)),
    ("Clip", (common.successive_clip_relu_rule,)),
    ("Relu", (common.successive_relu_clip_rule, common.successive_relu_rule)),
    ("Clip", (common.successive_clip_rule,)),
    ("Cast", (common.cast_cast_rule, common.no_op_cast_rule)),
    ("Expand", (common.no_op_expand_rule,)),
    ("Flatten", (common.flatten_to_reshape_rule,)),
    ("Reshape", (common.reshape_reshape_rule,)),
    ("Transpose", (common.no_op_transpose_rule, common.transpose_transpose_rule)),
    ("Unsqueeze", (common.unsqueeze_unsqueeze_rule,)),
    ("Squeeze", (common.squeeze_reshape_1d_rule,)),
    ("ScatterND", (common.no_op_dynamic_scatter_nd_rule, common.no_op_static_scatter_nd_rule)),
    ("Conv", (common.normalize_pad_format_conv_rule,)),
    ("ConvInteger", (common.normalize_pad_format_conv_integer_rule,)),
    ("Pad", (common.fuse_pad_into_conv_rule, common.fuse_pad_into_conv_integer_rule)),
    ("BatchNormalization", (
        common.fuse_batchnorm_into_conv_rule,
        common.fuse_batchnorm_into_conv_transpose_rule,
        common.fuse_batchnorm_into_gemm_rule,
    )),
    ("Conv", (common.remove_optional_bias_from_conv_rule,)),
    ("ConvTranspose", (common.remove_optional_bias_from_conv_transpose_rule,)),
    ("QLinearConv", (common.remove_optional_bias_from_qlinear_conv_rule,)),
    ("Gemm", (common.remove_optional_bias_from_gemm_rule,)),
)  # fmt: skip


def rules_for(operators: Collection[str]) -> list[RewriteRule]:
    """The rules that need one of these `operators`."""
    return [rule for operator, rules in _RULES if operator in operators for rule in rules]
