"""Dynamic INT8: what is rewritten, what ONNX Runtime makes of it, how close it is, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from doubles import SATURATES, Log, not_here
from exported_networks import GRAY, context, exported, fidelity, fused_operators, operators
from pydantic import ValidationError

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import ParityError, Refusal, StageError
from compress.stages.quantize.dynamic import Dynamic


def run(name, folder, log=None, **options):
    source = exported(name)
    return source, Dynamic(**options).run(source, context(folder, source, "dynamic", log))


@not_here
# Measured on x86 with VNNI over 64 samples, sample by sample: 39.4, 47.1, 42.6, 45.7 and 33.6 dB.
@pytest.mark.parametrize(
    ("name", "layers", "sqnr_db", "agreement"),
    [("mlp", 3, 36, 0.95), ("lstm", 3, 43, 0.98), ("bilstm", 2, 39, 0.95), ("gru", 1, 42, 0.98), ("vit", 9, 30, 0.95)],
)
def test_logits_stay_close(tmp_path, name, layers, sqnr_db, agreement):
    log = Log()
    source, made = run(name, tmp_path, log)
    assert log.lines[0] == f"dynamic: {layers} of {layers} layers in INT8"
    result = fidelity(source, made)
    assert result.sqnr_db > sqnr_db
    assert result.agreement >= agreement


def test_the_artifact_and_its_file(tmp_path):
    _, made = run("mlp", tmp_path)
    assert (made.format, made.precision, made.history) == (Format.ONNX, Precision.INT8, ("to_onnx", "dynamic"))
    assert made.path == tmp_path / "dynamic.onnx"
    assert [path.name for path in tmp_path.iterdir()] == ["dynamic.onnx"]
    model = onnx.load(made.path)
    assert model.opset_import[0].version == 17
    text = {entry.key: entry.value for entry in model.metadata_props}
    assert text["weights"] == "int8 per output channel, symmetric; dynamic activations"
    assert text["precision"] == "int8"
    assert json.loads(text["history"]) == ["to_onnx", "dynamic"]
    assert text["mine"] == "1"  # what the source file said stays


def test_the_mlp_is_integer_throughout_and_fused(tmp_path):
    _, made = run("mlp", tmp_path)
    kinds = operators(made.path)
    assert kinds.count("MatMulInteger") == kinds.count("DynamicQuantizeLinear") == 3
    assert not {"Gemm", "MatMul"} & set(kinds)
    fused = fused_operators(made.path, tmp_path)
    assert sorted(set(fused)) == ["DynamicQuantizeMatMul", "Relu", "Reshape"]
    assert fused.count("DynamicQuantizeMatMul") == 3


def test_products_of_one_activation_share_its_quantization_and_fuse(tmp_path):
    _, made = run("branches", tmp_path)
    kinds = operators(made.path)
    assert (kinds.count("DynamicQuantizeLinear"), kinds.count("MatMulInteger")) == (1, 2)
    fused = fused_operators(made.path, tmp_path)
    assert (fused.count("DynamicQuantizeLinear"), fused.count("MatMulIntegerToFloat")) == (1, 2)
    assert not {"MatMulInteger", "Cast", "Add"} & set(fused)


def test_lstm_layers_become_integer_and_shrink_to_a_quarter(tmp_path):
    source, made = run("lstm", tmp_path)
    kinds = operators(made.path)
    assert kinds.count("DynamicQuantizeLSTM") == 2
    assert "LSTM" not in kinds
    # The exporter left the order of the gates to Slice and Concat of the weights; those are constants now.
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(made.path).graph.initializer}
    shapes = sorted(array.shape for array in constants.values() if array.dtype == np.int8 and array.ndim == 3)
    assert shapes == [(1, 28, 256), (1, 64, 256), (1, 64, 256), (1, 64, 256)]
    assert made.path.stat().st_size < 0.32 * source.path.stat().st_size


def test_the_transformer_keeps_attention_products_and_patches_in_float_and_says_so(tmp_path):
    log = Log()
    _, made = run("vit", tmp_path, log)
    text = "\n".join(log.lines)
    assert "4 MatMul in float, a product of two activations: node_" in text
    assert "1 Conv in float, ptq_static quantizes convolutions: node_" in text
    fused = fused_operators(made.path, tmp_path)
    products = sum(fused.count(kind) for kind in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat"))
    assert products == 9
    assert fused.count("MatMul") + fused.count("FusedMatMul") == 4


def test_a_gru_stays_float_and_says_so(tmp_path):
    log = Log()
    _, made = run("gru", tmp_path, log)
    assert "GRU" in operators(made.path)
    assert any("1 GRU in float, ONNX Runtime has no integer kernel for it: node_" in line for line in log.lines)


def test_size_is_what_the_weights_say(tmp_path):
    source, made = run("mlp", tmp_path)
    weights, outputs = 784 * 256 + 256 * 100 + 100 * 10, 256 + 100 + 10
    saved = source.path.stat().st_size - made.path.stat().st_size
    assert saved == pytest.approx(3 * weights - 4 * outputs, abs=3000)
    assert made.path.stat().st_size < 0.26 * source.path.stat().st_size


def test_options_do_what_they_say(tmp_path):
    source = exported("lstm")

    def made(**options):
        path = Dynamic(**options).run(source, context(tmp_path, source, "dynamic")).path
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
        codes = [np.abs(array.astype(int)).max() for array in arrays if array.dtype == np.int8]
        return operators(path), max(codes)

    kinds, _ = made(op_types=("matmul",))
    assert kinds.count("LSTM") == 2
    kinds, _ = made(op_types=("lstm",))
    assert kinds.count("Gemm") == 1
    kinds, _ = made(exclude=("head",))
    assert kinds.count("Gemm") == 1
    assert made(reduce_range=True)[1] == 64
    assert made(per_channel=False)[1] == 127


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("reduce_range", [True, False])
def test_every_weight_scheme_passes_parity(tmp_path, per_channel, reduce_range):
    if SATURATES and not reduce_range:
        pytest.skip(not_here.kwargs["reason"])
    source, made = run("bilstm", tmp_path, per_channel=per_channel, reduce_range=reduce_range)
    assert fidelity(source, made).sqnr_db > 36


def test_reduce_range_follows_the_target(tmp_path):
    source = exported("mlp")
    base = context(tmp_path, source, "dynamic")
    scheme = base.target.int8.model_copy(update={"reduce_range": True})
    careful = base.target.model_copy(update={"int8": scheme})
    path = Dynamic().run(source, replace(base, target=careful)).path
    codes = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    assert max(int(np.abs(array.astype(int)).max()) for array in codes if array.dtype == np.int8) == 64


def test_nothing_to_quantize_names_the_stage_that_can(tmp_path):
    with pytest.raises(StageError, match=r"nothing to quantize.*no MatMul or Gemm or LSTM.*fix: .*ptq_static"):
        run("headless", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_quantized_file_is_not_quantized_again(tmp_path):
    _, made = run("mlp", tmp_path)
    with pytest.raises(StageError, match=r"dynamic\.onnx is quantized already \(it has DynamicQuantizeLinear"):
        Dynamic().run(made, context(tmp_path, made, "again"))
    assert not (tmp_path / "again.onnx").exists()


def test_a_pattern_without_a_match_lists_near_names(tmp_path):
    with pytest.raises(StageError, match=r"exclude pattern 'heed' matches no layer.*head"):
        run("lstm", tmp_path, exclude=("heed",))


def hand_made(path, opset, weight):
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Flatten", ["x"], ["f"]), onnx.helper.make_node("MatMul", ["f", "fc.weight"], ["y"])],
        "g",
        [info("x", 1, ["n", 1, 28, 28])],
        [info("y", 1, ["n", 4])],
        [onnx.numpy_helper.from_array(weight, "fc.weight")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return Artifact(Format.ONNX, path, Precision.FP32, GRAY)


def test_nan_weights_old_opsets_and_damaged_files_are_one_line_errors(tmp_path):
    weight = np.random.default_rng(0).normal(size=(784, 4)).astype(np.float32)
    old = hand_made(tmp_path / "old.onnx", 10, weight)
    with pytest.raises(StageError, match="ONNX opset 10, dynamic quantization needs 11"):
        Dynamic().run(old, context(tmp_path, old, "dynamic"))
    weight[3, 1] = np.nan
    broken = hand_made(tmp_path / "nan.onnx", 13, weight)
    with pytest.raises(StageError, match="weight of 'fc' holds NaN or infinity"):
        Dynamic().run(broken, context(tmp_path, broken, "dynamic"))
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "nan.onnx").read_bytes()[:500])
    cut = Artifact(Format.ONNX, tmp_path / "cut.onnx", Precision.FP32, GRAY)
    with pytest.raises(StageError, match="not a readable ONNX file"):
        Dynamic().run(cut, context(tmp_path, cut, "dynamic"))
    assert not (tmp_path / "dynamic.onnx").exists()


def test_a_file_that_is_too_far_off_is_not_handed_over(tmp_path):
    # One weight of a million decides the scale of the whole tensor, and all others round to zero.
    weight = np.random.default_rng(0).normal(size=(784, 4)).astype(np.float32)
    weight[0, 0] = 1e6
    source = hand_made(tmp_path / "wild.onnx", 13, weight)
    folder = tmp_path / "run"
    blind = context(folder, source, "dynamic")
    blind.splits.calibration.images[:, 0, 0, 0] = 0  # so the input that the outlier multiplies is silent
    with pytest.raises(ParityError, match=r"signal-to-noise ratio is .* at least 15 dB wanted"):
        Dynamic(per_channel=False).run(source, blind)
    assert not list(folder.glob("*"))


def test_targets_that_cannot_run_it_refuse_before_any_work():
    Dynamic().requires(load_target("raspberry_pi_4", []), Precision.FP32, "dynamic")
    with pytest.raises(
        Refusal, match=r"MatMulInteger, which ONNX Runtime executes and .*TensorRT 8\.5.*precision=int8"
    ):
        Dynamic().requires(load_target("jetson_xavier_nx", []), Precision.FP32, "dynamic")
    with pytest.raises(Refusal, match="cannot run int8 compute: its GPU is sm_53"):
        Dynamic().requires(load_target("jetson_nano", []), Precision.FP32, "dynamic")
    for precision in (Precision.FP16, Precision.INT8):
        with pytest.raises(Refusal, match=f"quantizes fp32 weights, but its input is already {precision}"):
            Dynamic().requires(load_target("raspberry_pi_4", []), precision, "dynamic")


@pytest.mark.parametrize(
    "options", [{"op_types": ()}, {"op_types": ("gru",)}, {"parity_samples": 0}, {"exclude": ("",)}]
)
def test_impossible_options_do_not_validate(options):
    with pytest.raises(ValidationError):
        Dynamic(**options)
