"""Which rewrite rules a graph is searched for."""

from __future__ import annotations

import onnxscript.rewriter
from onnxscript.rewriter.rules import common

from compress.formats.onnx.rewrites import _RULES, rules_for


def names(rules):
    return [type(rule).__name__ if rule.name is None else rule.name for rule in rules]


def test_all_of_the_librarys_default_but_the_one_of_quadratic_time():
    """Whoever updates onnxscript learns here of rules that it gained or lost."""
    default = [rule for rule in onnxscript.rewriter._DEFAULT_REWRITE_RULES if rule is not common.slice_split_rule]
    assert names(rules_for({operator for operator, _ in _RULES})) == names(default)


def test_only_rules_for_operators_that_the_graph_has():
    assert rules_for({"Reshape"}) == [common.materialize_reshape_shape_rule, common.reshape_reshape_rule]
    assert rules_for({"DequantizeLinear", "QuantizeLinear"}) == []
