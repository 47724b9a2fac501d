"""Peak activation memory, counted by hand on small graphs."""

from __future__ import annotations

import onnx
import pytest
from text_graphs import graph

from compress.measure.unmeasured import NotMeasured
from compress.optimize.activation_memory import peak_activation_bytes

KIB = 1024


def peak(body, constants="", x="float[1,256]", y="float[1,256]") -> int:
    return peak_activation_bytes(onnx.shape_inference.infer_shapes(graph(body, constants, x=x, y=y)))


def test_a_chain_holds_an_input_and_an_output():
    assert peak("a = Relu(x) b = Relu(a) y = Relu(b)") == 2 * KIB


def test_a_shortcut_lives_until_it_is_read():
    assert peak("a = Relu(x) b = Relu(a) c = Relu(b) y = Add(c, x)") == 3 * KIB
    assert peak("a = Relu(x) y = Add(a, a)") == 2 * KIB


def test_integers_take_a_byte_and_weights_do_not_count():
    assert peak("y = QuantizeLinear(x, s, z)", "float s = {1}, uint8 z = {0}", y="uint8[1,256]") == KIB + 256
    assert peak("k = Constant<value_float = 1.0>() y = Mul(x, k)") == 2 * KIB


def test_an_unread_value_lives_for_a_moment():
    assert peak("u = Relu(x) y = Abs(x)") == 2 * KIB


def test_a_free_batch_counts_as_one():
    assert peak("a = Relu(x) y = Relu(a)", x="float[N,256]", y="float[N,256]") == 2 * KIB


def test_what_depends_on_more_than_the_batch_is_not_measured():
    with pytest.raises(NotMeasured, match="shape of 'x' depends on more than the batch"):
        peak("y = Relu(x)", x="float[1,L]", y="float[1,L]")
    then = "then_branch = t () => (float[1,256] p) { p = Relu(x) }"
    branches = f"{then}, else_branch = e () => (float[1,256] n) {{ n = Neg(x) }}"
    body = f"c = Constant<value_int = 1>() b = Cast<to = 9>(c) y = If(b)<{branches}>"
    with pytest.raises(NotMeasured, match="inside If nodes"):
        peak(body)
