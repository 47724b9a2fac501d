"""The pipeline's gate: what passes, what fails with the layer's name, and what it does not judge."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from doubles import ArraySplit, noise, stage_context
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import DeviceMissing, ParityError
from compress.formats.onnx.assemble import finish, from_module
from compress.formats.onnx.opset import Ceiling
from compress.quantization.observers.min_max import MinMax
from compress.quantization.placement import Recipe
from compress.quantization.policy import load_policy
from compress.quantization.ptq import calibrate, convert, float_graph, prepare
from compress.stages.export.to_edgetpu import ToEdgetpu
from compress.stages.prepare.fold_batchnorm import FoldBatchnorm
from compress.stages.prune.magnitude import Magnitude
from compress.verify.hold import hold

SPEC = InputSpec((3, 8, 8))
IMAGES = noise(16, SPEC.shape)
PI = load_target("raspberry_pi_4", [])


class Promise(FoldBatchnorm):
    def equal_on(self):
        return 8


def context(tmp_path, target=PI):
    splits = SimpleNamespace(classes=(), calibration=IMAGES)
    return stage_context("rewrite", target=target, splits=splits, folder=tmp_path)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    ).eval()  # fmt: skip


def torch_artifact(module, precision=Precision.FP32):
    return Artifact(Format.TORCH, module, precision, SPEC)


def int8(module, policy=None):
    recipe = Recipe(policy or load_policy("onnxruntime"), MinMax, reduce_range=True)
    prepared = prepare(float_graph(module, SPEC), recipe)
    calibrate(prepared, [torch.from_numpy(IMAGES.images)])
    return torch_artifact(convert(prepared), Precision.INT8)


def exported(artifact, path):
    model = finish(from_module(artifact.module, SPEC, dynamic_batch=True), 17, Ceiling(None, ""))
    import onnx_ir as ir

    ir.save(model, path)
    return artifact.after("to_onnx", path, format=Format.ONNX)


def edit(path, name, change):
    """Change the stored tensor whose name ends with `name`."""
    model = onnx.load(path)
    (tensor,) = [one for one in model.graph.initializer if one.name.endswith(name)]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    onnx.save(model, path)


def test_an_equal_module_passes_and_a_different_one_names_the_layer(tmp_path):
    module = network()
    other = copy.deepcopy(module)
    hold(Promise(), torch_artifact(module), torch_artifact(other), context(tmp_path), exact_int8=False)
    with torch.no_grad():
        other[2].weight[3] *= 1.01
    with pytest.raises(ParityError, match=r"stage 'rewrite': the torch module does not .* 8 samples: .* first at 2;"):
        hold(Promise(), torch_artifact(module), torch_artifact(other), context(tmp_path), exact_int8=False)


def test_a_stage_that_promises_nothing_may_change_everything(tmp_path):
    pruned = network()
    nn.init.zeros_(pruned[0].weight)
    hold(Magnitude(), torch_artifact(network()), torch_artifact(pruned), context(tmp_path), exact_int8=False)


def test_a_float_file_that_differs_is_removed_and_the_layer_named(tmp_path):
    before = torch_artifact(network())
    after = exported(before, tmp_path / "a.onnx")
    hold(Promise(), before, after, context(tmp_path), exact_int8=False)
    edit(after.path, "2.bias", lambda bias: bias + np.float32(0.5))
    with pytest.raises(ParityError, match=r"the onnx file does not compute .* first at 2;"):
        hold(Promise(), before, after, context(tmp_path), exact_int8=False)
    assert not after.path.exists()


def test_an_int8_file_is_judged_in_steps_where_decibels_would_let_it_pass(tmp_path):
    before = int8(network())
    after = exported(before, tmp_path / "a.onnx")
    hold(Promise(), before, after, context(tmp_path), exact_int8=False)
    edit(after.path, "2.bias", lambda bias: (bias + bias.std() / 2).astype(bias.dtype))
    with pytest.raises(ParityError, match=r"logits are \d+\.\d LSB off on average, allowed 2\.0 .* first at 2"):
        hold(Promise(), before, after, context(tmp_path), exact_int8=False)


def pooled():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.Conv2d(8, 8, 3),
                         nn.Flatten(), nn.Linear(32, 5)).eval()  # fmt: skip


def test_a_file_is_judged_as_its_runtime_fuses_it(tmp_path):
    before = int8(pooled(), load_policy("onnxruntime").model_copy(update={"guards": ()}))
    after = exported(before, tmp_path / "a.onnx")
    with pytest.raises(
        ParityError, match=r"fused kernels do not .* first at QLinearAveragePool \(node .*pool"
    ) as caught:
        hold(Promise(), before, after, context(tmp_path), exact_int8=False)
    assert "keep_float" in str(caught.value)


def test_another_runtimes_kernels_are_not_judged_here(tmp_path):
    before = int8(pooled(), load_policy("onnxruntime").model_copy(update={"guards": ()}))
    after = exported(before, tmp_path / "a.onnx")
    hold(Promise(), before, after, context(tmp_path, load_target("jetson_xavier_nx", [])), exact_int8=False)


def test_a_guarded_kernel_is_placed_around(tmp_path):
    before = int8(pooled())
    hold(Promise(), before, exported(before, tmp_path / "a.onnx"), context(tmp_path), exact_int8=False)


def test_what_only_the_device_can_make_is_left_to_it(tmp_path):
    source = torch_artifact(network())
    plan = replace(source, format=Format.TENSORRT, model=tmp_path / "a.plan.json")
    hold(Promise(), source, plan, context(tmp_path), exact_int8=False)


def compiled(tmp_path, monkeypatch, answers):
    """A file for the Edge TPU and what it was compiled from; `answers` of the first, None where no device is there."""
    before, after = tmp_path / "int8.tflite", tmp_path / "int8_edgetpu.tflite"
    before.write_bytes(b"model")
    after.write_bytes(b"compiled")

    def on_device(artifact, *, threads):
        if answers is None:
            raise DeviceMissing("no Edge TPU is connected to this machine")
        return answers

    monkeypatch.setattr("compress.formats.tflite.runtime.load", lambda artifact, *, threads: logits)
    monkeypatch.setattr("compress.formats.edgetpu.runtime.load", on_device)
    source = Artifact(Format.TFLITE, before, Precision.INT8, SPEC, dynamic_batch=False)
    return source, source.after("to_edgetpu", after, format=Format.EDGETPU)


def logits(images):
    return images.reshape(len(images), -1)[:, :5]


def test_a_compiled_file_is_held_where_its_device_is(tmp_path, monkeypatch):
    stage = ToEdgetpu()
    assert stage.equal_on() > 0
    source, right = compiled(tmp_path, monkeypatch, logits)
    hold(stage, source, right, context(tmp_path), exact_int8=True)
    source, absent = compiled(tmp_path, monkeypatch, None)
    hold(stage, source, absent, context(tmp_path), exact_int8=True)
    assert absent.path.exists()
    source, wrong = compiled(tmp_path, monkeypatch, lambda images: -logits(images))
    with pytest.raises(ParityError, match="the edgetpu file does not compute what its source does on 16 samples"):
        hold(stage, source, wrong, context(tmp_path), exact_int8=True)
    assert not wrong.path.exists()
    assert source.path.exists()


def test_a_file_that_is_only_handed_on_is_not_run(tmp_path, monkeypatch):
    source, _ = compiled(tmp_path, monkeypatch, logits)
    copied = tmp_path / "copy.tflite"
    copied.write_bytes(b"model")
    monkeypatch.setattr("compress.formats.tflite.runtime.load", None)
    hold(ToEdgetpu(), source, source.after("to_edgetpu", copied), context(tmp_path), exact_int8=True)


def amplifier(path, *, wrong=False):
    """Sums that end in the middle between two steps, which fused kernels and the specification round differently, and a
    layer of differences after them that makes eight steps of one. With `wrong`, a pooling that ONNX Runtime gets wrong.
    """
    random = np.random.default_rng(0)
    signs = 80 * random.choice([-1, 1], (4, 8, 1, 1)).astype(np.int8)
    constants = {
        "w": random.integers(-3, 4, (8, 4, 1, 1)).astype(np.int8), "v": signs, "zw": np.int8(0), "zx": np.uint8(0),
        "zy": np.uint8(128), "sx": np.float32(0.1), "sw": np.float32(0.3), "sy": np.float32(0.06),
        "sv": np.float32(0.01), "so": np.float32(0.006),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["a"], name="sums"),
        helper.make_node("QuantizeLinear", ["a", "sy", "zy"], ["aq"]),
        helper.make_node("DequantizeLinear", ["aq", "sy", "zy"], ["ad"]),
        helper.make_node("DequantizeLinear", ["v", "sv", "zw"], ["vd"]),
        helper.make_node("Conv", ["ad", "vd"], ["b"], name="differences"),
        helper.make_node("QuantizeLinear", ["b", "so", "zy"], ["bq"]),
        helper.make_node("DequantizeLinear", ["bq", "so", "zy"], ["bd"]),
    ]
    last = "bd"
    if wrong:
        pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1, "count_include_pad": 1}
        nodes += [
            helper.make_node("AveragePool", ["bd"], ["p"], name="pool", **pool),
            helper.make_node("QuantizeLinear", ["p", "so", "zy"], ["pq"]),
            helper.make_node("DequantizeLinear", ["pq", "so", "zy"], ["pd"]),
        ]
        last = "pd"
    nodes.append(helper.make_node("Flatten", [last], ["y"]))
    ports = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 4, 6, 6]), ("y", ["N", None]))
    ]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "amplifier", ports[:1], ports[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    spec = InputSpec((4, 6, 6), "planes", (0.0,) * 4, (1.0,) * 4)
    return Artifact(Format.ONNX, path, Precision.INT8, spec)


def judged(file, tmp_path):
    images = np.random.default_rng(1).integers(0, 9, (8, 4, 6, 6)).astype(np.float32) / 10
    splits = SimpleNamespace(classes=(), calibration=ArraySplit(images))
    gate = stage_context("rewrite", target=PI, splits=splits, folder=tmp_path)
    before = onnx.load(file.path)
    before.doc_string = "the same network in another file"
    onnx.save(before, tmp_path / "before.onnx")
    hold(Promise(), replace(file, model=tmp_path / "before.onnx"), file, gate, exact_int8=True)
    return gate.progress.lines


def test_rounding_that_later_layers_spread_is_no_wrong_kernel(tmp_path):
    file = amplifier(tmp_path / "a.onnx")
    (line,) = judged(file, tmp_path)
    assert re.search(
        r"differ: logits are [1-9]\.\d LSB off on average, allowed 1\.0 .* every kernel by itself is", line
    )
    assert file.path.exists()


def test_a_wrong_kernel_behind_rounding_that_spread_is_found(tmp_path):
    with pytest.raises(ParityError, match=r"first at QLinearAveragePool \(node pool\)"):
        judged(amplifier(tmp_path / "a.onnx", wrong=True), tmp_path)
