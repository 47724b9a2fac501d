"""PRELU and ELU through the converter: what is placed in the graph, and every code that comes out of the kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import fx

from compress.core.errors import StageError
from compress.formats.tflite.flatbuffer import pack
from compress.formats.tflite.network import parse_network
from compress.formats.tflite.stand_ins import StandIn, place_stand_ins, replace_stand_ins

aten = torch.ops.aten
_ops = torch.ops.quantized_decomposed
INT8 = (-128, 127, torch.int8)
SLOPES = np.array([0.05, 0.4, -0.3, 1.5], np.float32)


def pair(graph, node, scale, zero_point):
    node = graph.call_function(_ops.quantize_per_tensor.default, (node, scale, zero_point, *INT8))
    return graph.call_function(_ops.dequantize_per_tensor.default, (node, scale, zero_point, *INT8))


def quantized(operator, *more, slopes=None, grids=((0.05, 10), (0.04, -20))):
    """quantize -> dequantize -> operator -> quantize -> dequantize, as PTQ leaves it."""
    graph, root = fx.Graph(), torch.nn.Module()
    operands = [pair(graph, graph.placeholder("x"), *grids[0])]
    if slopes is not None:
        root.register_buffer("slopes", torch.from_numpy(slopes).to(torch.int8))
        numbers = (1.5 / 127, 0, *INT8)
        operands.append(graph.call_function(_ops.dequantize_per_tensor.default, (graph.get_attr("slopes"), *numbers)))
    node = graph.call_function(operator, (*operands, *more))
    node.meta["val"] = torch.empty(1, 4, 8, 8)
    graph.output(pair(graph, node, *grids[1]))
    return fx.GraphModule(root, graph)


def targets(module):
    return [node.target for node in module.graph.nodes if node.op == "call_function" and node.target not in vars(_ops)]


def slopes_of(module):
    return [node.args[1] for node in module.graph.nodes if node.target is aten.leaky_relu.default]


def test_prelu_becomes_a_product_and_a_marked_leaky_relu():
    codes = np.rint(SLOPES / (1.5 / 127))
    module = quantized(aten.prelu.default, slopes=codes)
    (entry,) = place_stand_ins(module, lacks=())
    module.recompile()
    assert entry.kind == "PRELU"
    assert slopes_of(module) == [entry.slope]
    assert aten.prelu.default not in targets(module)
    (stored,) = [buffer for name, buffer in module.named_buffers() if name.endswith("_slopes")]
    assert stored.shape == (1, 4, 1, 1)
    np.testing.assert_allclose(stored.flatten(), codes * 1.5 / 127, rtol=1e-6)


@pytest.mark.parametrize(
    ("slope", "lacks", "kinds"),
    [(0.1, (), []), (0.1, ("LEAKY_RELU",), ["PRELU"]), (3.0, (), ["PRELU"]), (-0.2, (), ["PRELU"])],
)
def test_a_leaky_relu_is_a_prelu_where_there_is_no_other(slope, lacks, kinds):
    module = quantized(aten.leaky_relu.default, slope)
    assert [entry.kind for entry in place_stand_ins(module, lacks=lacks)] == kinds
    assert kinds or slopes_of(module) == [slope]


def test_elu_has_a_table_of_its_own_where_the_device_has_one():
    for factors in ((), (1.0,), (1.0, 1, 1.0)):  # as `F.elu` and `nn.ELU` write it
        assert [entry.kind for entry in place_stand_ins(quantized(aten.elu.default, *factors), lacks=())] == ["ELU"]
    assert place_stand_ins(quantized(aten.elu.default), lacks=("ELU",)) == []
    assert place_stand_ins(quantized(aten.elu.default, 0.5), lacks=()) == []  # the kernel knows no other factor


def test_a_slope_of_the_users_own_marks_nothing():
    graph = fx.Graph()
    node = pair(graph, graph.placeholder("x"), 0.05, 0)
    for operator, more in ((aten.leaky_relu.default, (0.5,)), (aten.elu.default, ())):
        node = graph.call_function(operator, (node, *more))
        node.meta["val"] = torch.empty(1, 4, 8, 8)
        node = pair(graph, node, 0.05, 0)
    graph.output(node)
    module = fx.GraphModule(torch.nn.Module(), graph)
    (entry,) = place_stand_ins(module, lacks=())
    assert entry.slope != 0.5
    assert slopes_of(module) == [0.5, entry.slope]


def test_in_float_nothing_is_placed():
    graph = fx.Graph()
    graph.output(graph.call_function(aten.leaky_relu.default, (graph.placeholder("x"), 3.0)))
    assert place_stand_ins(fx.GraphModule(torch.nn.Module(), graph), lacks=("LEAKY_RELU",)) == []


CODES = np.repeat(np.arange(-128, 128), 4).reshape(1, 16, 16, 4).astype(np.int8)  # each code in each channel


def stand_in_file(build, kind, slope, *, source=(0.05, 10), result=(0.04, -20)):
    """What the converter makes of a stand-in."""
    given = build.tensor(CODES.shape, scale=source[0], zero_point=source[1])
    before = given
    if kind == "PRELU":
        scale = np.abs(SLOPES).max() / 127
        stored = np.rint(SLOPES / scale).astype(np.int8).reshape(1, 1, 1, 4)
        slopes = build.tensor(stored.shape, constant=stored, scale=scale, zero_point=0)
        before = build.tensor(CODES.shape, scale=result[0], zero_point=result[1])
        build.operator("MUL", 2, [given, slopes], [before], "MulOptions")
    taken = build.tensor(CODES.shape, scale=result[0], zero_point=result[1])
    build.operator("LEAKY_RELU", 2, [before], [taken], "LeakyReluOptions", alpha=slope)
    return build.interface(given, taken)


@pytest.mark.parametrize("kind", ["PRELU", "ELU"])
@pytest.mark.parametrize(("source", "result"), [((0.05, 10), (0.04, -20)), ((0.02, -60), (0.06, 40))])
def test_every_code_is_within_one_of_the_reference(build, run_bytes, kind, source, result):
    model = stand_in_file(build, kind, 0.75, source=source, result=result)
    replace_stand_ins(model, [StandIn(kind, 0.75, "act")])
    content = pack(model)
    assert [operator.kind for operator in parse_network(content).operators] == [kind]
    x = torch.from_numpy((CODES.astype(np.float32) - source[1]) * np.float32(source[0]))
    scale = np.abs(SLOPES).max() / 127
    slopes = torch.from_numpy(np.rint(SLOPES / scale) * scale).float()
    wanted = torch.where(x >= 0, x, x * slopes) if kind == "PRELU" else torch.nn.functional.elu(x)
    codes = (wanted / result[0]).round().numpy() + result[1]
    assert np.abs(run_bytes(content, CODES) - np.clip(codes, -128, 127)).max() <= 1


def test_slopes_have_no_axis_for_the_batch(build):
    model = stand_in_file(build, "PRELU", 0.75)
    replace_stand_ins(model, [StandIn("PRELU", 0.75, "act")])
    (operator,) = parse_network(pack(model)).operators
    assert operator.inputs[1].shape == (1, 1, 4)


def test_a_stand_in_that_the_converter_took_apart_is_refused(build):
    model = stand_in_file(build, "ELU", 0.75)
    with pytest.raises(StageError, match=r"layer 'body\.2': the converter did not keep the PRELU") as error:
        replace_stand_ins(model, [StandIn("PRELU", 0.625, "body.2")])
    assert "\n" not in str(error.value)
    with pytest.raises(StageError, match="did not keep the PRELU"):  # no product before it
        replace_stand_ins(model, [StandIn("PRELU", 0.75, "body.2")])
