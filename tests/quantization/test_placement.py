"""Where each policy puts Q/DQ, on the patterns that decide whether a runtime can fuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from compress.graph.capture import call_nodes, parameter_name
from compress.graph.operators import lossless_range
from compress.quantization.ptq import calibrate, convert, float_graph, layers_in_float, prepare, quantizers

Q = "quantize_per_tensor"


def packet(node):
    target = getattr(node, "target", "")
    return getattr(getattr(target, "overloadpacket", None), "__name__", str(target))


def find(graph, name, nth=0):
    return [node for node in call_nodes(graph) if packet(node) == name][nth]


def is_integer(node):
    """Fed by a dequantize."""
    return packet(node).startswith("dequantize")


def only(node):
    (user,) = node.users
    return packet(user)


def count(graph, name):
    return sum(packet(node) == name for node in call_nodes(graph))


class Block(nn.Module):
    """Conv-ReLU6, Conv, residual Add-ReLU, max pool, global mean, linear."""

    def __init__(self):
        super().__init__()
        self.expand, self.project = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 3, padding=1)
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        y = self.project(F.relu6(self.expand(x)))
        y = F.max_pool2d(F.relu(y + x), 2)
        return self.fc(y.mean([2, 3]))


def test_onnxruntime_keeps_activations_inside_and_everything_in_integers(kit):
    graph = kit.quantize(Block().eval(), torch.randn(16, *kit.spec.shape), kit.spec, kit.recipe())
    assert [only(find(graph, "conv2d", 0)), only(find(graph, "conv2d", 1)), only(find(graph, "add"))] == [
        "relu6",
        Q,
        "relu",
    ]
    assert [only(find(graph, "relu6")), only(find(graph, "relu"))] == [Q, Q]
    for node in call_nodes(graph):
        if packet(node) in ("conv2d", "add", "max_pool2d", "avg_pool2d", "flatten", "linear"):
            assert all(is_integer(source) for source in node.all_input_nodes), node
    assert only(find(graph, "linear")) == "output"
    assert count(graph, "mean") == 0


def parameters(node):
    return node.args[1:3]


def test_rearranging_operators_share_the_scale_of_their_input(kit):
    graph = kit.quantize(Block().eval(), torch.randn(16, *kit.spec.shape), kit.spec, kit.recipe())
    pool = find(graph, "max_pool2d")
    (after,) = pool.users
    assert parameters(pool.args[0]) == parameters(after)
    flatten = find(graph, "flatten")
    assert parameters(flatten.args[0]) == parameters(next(iter(flatten.users)))


def test_weights_are_stored_as_integers_under_their_own_names_and_biases_in_the_products_units(kit):
    graph = kit.quantize(Block().eval(), torch.randn(16, *kit.spec.shape), kit.spec, kit.recipe())
    conv = find(graph, "conv2d")
    image, weight, bias = conv.args[:3]
    assert parameter_name(weight.args[0]) == "expand.weight"
    assert (graph.expand.weight.dtype, graph.expand.bias.dtype) == (torch.int8, torch.int32)
    torch.testing.assert_close(graph.expand.bias_scale, image.args[1] * graph.expand.weight_scale)
    assert not list(graph.parameters())
    assert packet(bias) == "dequantize_per_channel"


def test_tensorrt_quantizes_inputs_and_the_skip_branch_only(kit):
    graph = kit.quantize(Block().eval(), torch.randn(16, *kit.spec.shape), kit.spec, kit.recipe("tensorrt"))
    first, second, add, linear = (
        find(graph, *which) for which in (("conv2d", 0), ("conv2d", 1), ("add",), ("linear",))
    )
    for node in (first, second, linear):
        assert is_integer(node.args[0])
        assert is_integer(node.args[1])
        assert parameter_name(node.args[2])
    assert add.args[0] is second
    assert is_integer(add.args[1])
    assert only(linear) == "output"
    pairs = [node for node in call_nodes(graph) if packet(node) == Q]
    assert {(node.args[2], node.args[3], node.args[4]) for node in pairs} == {(0, -128, 127)}
    assert len(pairs) == 4  # image (read by conv and skip branch), ReLU6 output, sum to be pooled, pooled features
    assert not any(packet(source) == "conv2d" for node in pairs for source in node.all_input_nodes)


def test_litert_quantizes_every_operator_and_the_output_with_the_fixed_scales(kit):
    class Net(Block):
        def forward(self, x):
            return torch.softmax(torch.cat([super().forward(x), torch.tanh(super().forward(x))], 1), 1)

    graph = kit.quantize(Net().eval(), torch.randn(16, *kit.spec.shape), kit.spec, kit.recipe("litert"))
    for node in call_nodes(graph):
        if not packet(node).startswith(("quantize", "dequantize")):
            fused = ("conv2d", "linear", "add")  # an activation's input stays inside the fused kernel
            assert all(is_integer(source) or packet(source) in fused for source in node.all_input_nodes)
    (result,) = find(graph, "softmax").users
    assert result.args[1:5] == (1 / 256, -128, -128, 127)
    concat = find(graph, "cat")
    features, tanh = (parameters(source) for source in concat.args[0])
    assert tanh[:2] == (1 / 128, 0)  # requantized by the join: a fixed grid pulls nobody
    assert parameters(next(iter(concat.users))) == features != tanh


def test_a_split_hands_its_scale_to_the_pieces(kit):
    class Shuffle(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(2, 2, 1)

        def forward(self, x):
            left, right = self.a(x).chunk(2, 1)
            y = torch.cat([left, self.b(right)], 1)
            return self.a(y[:, :3].transpose(2, 3))

    graph = kit.quantize(Shuffle().eval(), torch.randn(16, *kit.spec.shape), kit.spec, kit.recipe())
    chunk = find(graph, "chunk")
    for piece in chunk.users:
        (after,) = piece.users
        assert parameters(after) == parameters(chunk.args[0])


def test_values_that_a_hardswish_maps_to_zero_are_not_represented(kit):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Hardswish(), nn.Conv2d(8, 2, 1)).eval()
    with torch.no_grad():
        net[0].weight.mul_(30)
    graph = kit.quantize(net, torch.randn(16, *kit.spec.shape), kit.spec, kit.recipe())
    (quantize,) = find(graph, "conv2d").users
    scale, zero_point = parameters(quantize)
    assert -scale * zero_point == pytest.approx(-3, abs=scale)


def test_lossless_ranges():
    graph = fx.Graph()
    x = graph.placeholder("x")
    aten = torch.ops.aten
    make = graph.call_function
    assert lossless_range(make(aten.hardtanh.default, (x, 0.0, 6.0))) == (0, 6)
    assert lossless_range(make(aten.hardtanh.default, (x,))) == (-1, 1)
    assert lossless_range(make(aten.clamp.default, (x, 0.5))) == (0.5, float("inf"))
    assert lossless_range(make(aten.hardsigmoid.default, (x,))) == (-3, 3)
    assert lossless_range(make(aten.gelu.default, (x,)))[0] == -float("inf")


def test_what_stays_in_float_is_named(kit):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Hardswish(), nn.Conv2d(8, 2, 1), nn.ReLU(), nn.GELU()).eval()
    assert layers_in_float(float_graph(net, kit.spec), kit.recipe()) == {"hardswish": 1, "gelu": 1}
    assert layers_in_float(float_graph(net, kit.spec), kit.recipe("litert")) == {}


def test_layers_can_be_kept_in_float_by_name(kit):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    graph = kit.quantize(net, torch.randn(16, *kit.spec.shape), kit.spec, kit.recipe(keep_float={"2"}))
    first, second = find(graph, "conv2d", 0), find(graph, "conv2d", 1)
    assert is_integer(first.args[1])
    assert parameter_name(second.args[1]) == "2.weight"
    assert only(second) == "output"


def test_quantizers_are_addressable_by_layer(kit):
    prepared = prepare(float_graph(Block().eval(), kit.spec), kit.recipe())
    names = set(quantizers(prepared))
    assert {"input", "expand.weight", "project.weight", "project", "fc.weight"} <= names
    assert len(names) == 8  # three weights; image, ReLU6, project, ReLU, mean; max pool and flatten follow


def test_a_shared_layer_has_one_weight_and_one_bias_for_each_of_its_inputs(kit):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(10 * F.relu(self.conv(x)))

    net, x = Twice().eval(), torch.randn(32, *kit.spec.shape)
    graph = kit.quantize(net, x, kit.spec, kit.recipe())
    assert find(graph, "conv2d", 0).args[1].args[0].target == find(graph, "conv2d", 1).args[1].args[0].target
    assert kit.sqnr(net(x), graph(x)) > 30


def test_the_calibrated_and_converted_graph_is_an_ordinary_module(kit):
    prepared = prepare(float_graph(Block().eval(), kit.spec), kit.recipe())
    assert calibrate(prepared, [torch.randn(4, *kit.spec.shape)]) == 4
    graph = convert(prepared)
    assert graph.eval() is graph
    assert [graph(torch.randn(batch, *kit.spec.shape)).shape[0] for batch in (1, 7)] == [1, 7]
