"""Hardsigmoid and hardswish out of ADD, RELU6 and MUL: every input code gives the output code it should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from compress.formats.tflite.activations import expand_activations

aten = torch.ops.aten
INT8 = (-128, 127, torch.int8)
FIXED = (1 / 255, -128)


def graph_of(operator, source_grid, result_grid):
    """quantize -> dequantize -> operator -> quantize -> dequantize, as PTQ leaves it."""
    graph = fx.Graph()
    node = graph.placeholder("x")
    for scale, zero_point in (source_grid, result_grid):
        if scale is result_grid[0] and node.op != "placeholder":
            node = graph.call_function(operator, (node,))
            node.meta["val"] = torch.empty(1, 1, 1, 256)
        node = graph.call_function(
            torch.ops.quantized_decomposed.quantize_per_tensor.default, (node, scale, zero_point, *INT8)
        )
        node = graph.call_function(
            torch.ops.quantized_decomposed.dequantize_per_tensor.default, (node, scale, zero_point, *INT8)
        )
    graph.output(node)
    return fx.GraphModule(torch.nn.Module(), graph)


def codes_off(operator, source_grid, result_grid, **options):
    """Largest difference of the output, in steps, over all 256 inputs."""
    module = graph_of(operator, source_grid, result_grid)
    x = ((torch.arange(-128, 128) - source_grid[1]) * source_grid[0]).reshape(1, 1, 1, 256)
    before = module(x)
    expand_activations(module, **options)
    module.recompile()
    assert not any(node.target is operator for node in module.graph.nodes)
    return float(((module(x) - before) / result_grid[0]).abs().max())


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.005, 0.3), zero_point=st.integers(-128, 127))
def test_hardsigmoid_is_exact_up_to_a_tie(scale, zero_point):
    assert codes_off(aten.hardsigmoid.default, (scale, zero_point), FIXED, hardswish=False) <= 1.01


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.02, 0.3), zero_point=st.integers(-60, 60))
def test_hardswish_is_within_two_steps(scale, zero_point):
    peak = max((127 - zero_point) * scale, 1.0)
    result = ((peak + 0.375) / 255, round(-128 + 0.375 / ((peak + 0.375) / 255)))
    assert codes_off(aten.hardswish.default, (scale, zero_point), result, hardswish=True) <= 2.01


def test_a_float_activation_stays():
    graph = fx.Graph()
    node = graph.call_function(aten.hardsigmoid.default, (graph.placeholder("x"),))
    graph.output(node)
    module = fx.GraphModule(torch.nn.Module(), graph)
    expand_activations(module, hardswish=True)
    assert [entry.target for entry in module.graph.nodes if entry.op == "call_function"] == [aten.hardsigmoid.default]


def test_hardswish_stays_where_the_device_has_it():
    module = graph_of(aten.hardswish.default, (0.05, 0), (0.03, -100))
    expand_activations(module, hardswish=False)
    assert any(node.target is aten.hardswish.default for node in module.graph.nodes)


@pytest.mark.parametrize("operator", [aten.hardsigmoid.default])
def test_the_constants_have_the_rank_of_the_activation(operator):
    module = graph_of(operator, (0.05, 0), FIXED)
    expand_activations(module, hardswish=False)
    assert {buffer.ndim for buffer in module.buffers()} == {4}
