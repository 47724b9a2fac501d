"""Weights that are no numbers are named before any work starts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from compress.core.errors import ModelError
from compress.graph.sound import refuse_unsound, refuse_unsound_graph


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net.register_buffer("mask", torch.full((2, 2), float("-inf")))
    return net


def fill(name: str, value: float) -> nn.Module:
    net = network()
    with torch.no_grad():
        dict(net.state_dict())[name].view(-1)[1] = value
    return net


def test_a_sound_network_passes_infinite_masks_and_all():
    refuse_unsound(network())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("0.weight", float("nan"), r"0.weight holds 1 values that are not numbers \(NaN\), of 108"),
        ("1.running_mean", float("nan"), r"1.running_mean holds 1 values that are not numbers"),
        ("mask", float("nan"), "mask holds 1 values that are not numbers"),
        ("0.bias", float("inf"), "0.bias holds 1 infinite values, of 4"),
        ("1.running_var", -0.5, "1.running_var holds 1 negative variances, of 4"),
        ("1.running_var", float("inf"), "1.running_var holds 1 infinite values, of 4"),
    ],
)
def test_unsound_tensors_are_named(name, value, message):
    with pytest.raises(ModelError, match=message):
        refuse_unsound(fill(name, value))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_looked_at_too(dtype):
    with pytest.raises(ModelError, match=r"0\.weight holds 1 values"):
        refuse_unsound(fill("0.weight", float("nan")).to(dtype))


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, np.nan, r"w holds 1 values that are not numbers"),
        (1, np.inf, "w holds 1 infinite values, of 4"),
        (6, -1.0, "variance holds 1 negative variances, of 2"),
        (5, np.nan, "mean holds 1 values that are not numbers"),
        (7, np.inf, None),
    ],
)
def test_initializers_of_a_graph(position, value, message):
    names = ["x", "w", "y", "scale", "bias", "mean", "variance", "limit"]
    stored = {name: np.ones(4 if name == "w" else 2, np.float32) for name in names}
    stored[names[position]][0] = value
    shape = {"w": (2, 2, 1, 1)}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Conv", ["x", "w"], ["y"]),
            onnx.helper.make_node("BatchNormalization", ["y", *names[3:7]], ["z"]),
            onnx.helper.make_node("Min", ["z", "limit"], ["out"]),
        ],
        "g",
        [],
        [],
        [onnx.numpy_helper.from_array(stored[n].reshape(shape.get(n, -1)), n) for n in names if n not in "xy"],
    )
    if message is None:
        refuse_unsound_graph(graph)
        return
    with pytest.raises(ModelError, match=message):
        refuse_unsound_graph(graph)


def one_node(kind, *inputs, **attributes):
    return onnx.helper.make_node(kind, list(inputs), ["out"], **attributes)


def tensor(name, *values, kind=TensorProto.FLOAT):
    return onnx.helper.make_tensor(name, kind, [len(values)], values)


INNER = onnx.helper.make_graph([one_node("Conv", "x", "w")], "inner", [], [], [tensor("w", np.nan)])
GRAPHS = {
    "constant": ([one_node("Constant", value=tensor("", 1.0, np.nan))], [], "out holds 1 values that are not numbers"),
    "inner graph": ([one_node("If", "c", then_branch=INNER, else_branch=INNER)], [], "w holds 1 values that are not"),
    "inner infinity": (
        [
            one_node(
                "Loop",
                "n",
                body=onnx.helper.make_graph([one_node("MatMul", "x", "w")], "b", [], [], [tensor("w", np.inf)]),
            )
        ],
        [],
        "w holds 1 infinite values",
    ),
    "bfloat16": (
        [one_node("Conv", "x", "w")],
        [tensor("w", np.nan, kind=onnx.TensorProto.BFLOAT16)],
        "w holds 1 values",
    ),
    "half": ([one_node("Conv", "x", "w")], [tensor("w", np.inf, kind=onnx.TensorProto.FLOAT16)], "w holds 1 infinite"),
    "double": ([one_node("Conv", "x", "w")], [tensor("w", np.nan, kind=onnx.TensorProto.DOUBLE)], "w holds 1 values"),
    "scale": ([one_node("DequantizeLinear", "q", "s")], [tensor("s", np.inf)], "s holds 1 infinite values"),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_constants_inner_graphs_and_scales_are_looked_at_too(kind):
    nodes, stored, message = GRAPHS[kind]
    with pytest.raises(ModelError, match=f"net.onnx: the model's tensor {message}"):
        refuse_unsound_graph(onnx.helper.make_graph(nodes, "g", [], [], stored), "net.onnx")


def test_an_initializer_of_another_length_is_one_line():
    damaged = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2], raw_data=b"\0" * 7)
    graph = onnx.helper.make_graph([one_node("Conv", "x", "w")], "g", [], [], [damaged])
    with pytest.raises(ModelError, match="the model's tensor w is damaged: "):
        refuse_unsound_graph(graph)


def test_tensors_that_are_plain_attributes_and_files_are_named():
    net = network()
    net.table = torch.tensor([1.0, float("nan")])
    with pytest.raises(ModelError, match=r"^net\.pt2: the model's tensor .table holds 1 values"):
        refuse_unsound(net, "net.pt2")


@pytest.mark.parametrize(
    ("part", "message"),
    [(nn.LazyLinear(2), "weight has no shape yet"), (nn.Linear(2, 2), "weight has no dense values")],
)
def test_tensors_without_dense_values_are_named(part, message):
    if isinstance(part, nn.Linear) and not isinstance(part, nn.LazyLinear):
        part.weight = nn.Parameter(part.weight.detach().to_sparse())
    with pytest.raises(ModelError, match=message):
        refuse_unsound(part)
