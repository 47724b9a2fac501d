"""Weight-only quantization: sizes as computed, closeness as measured, and what is refused."""

from __future__ import annotations

import onnx
import pytest
from doubles import Log
from exported_networks import context, exported, fidelity, operators
from pydantic import ValidationError

from compress.config.schema import load_target
from compress.core.artifact import Format, Precision
from compress.core.errors import ParityError, Refusal, StageError
from compress.stages.quantize import weight_only
from compress.stages.quantize.weight_only import WeightOnly


def run(name, folder, log=None, **options):
    source = exported(name)
    return source, WeightOnly(**options).run(source, context(folder, source, "weight_only", log))


# Measured on x86, 64 samples: MLP 44.9 and 20.5 dB, transformer 40.7 and 14.8 dB.
@pytest.mark.parametrize(
    ("name", "bits", "symmetric", "sqnr_db"),
    [
        ("mlp", 8, False, 42),
        ("mlp", 8, True, 42),
        ("mlp", 4, False, 18),
        ("mlp", 4, True, 18),
        ("vit", 8, False, 38),
        ("vit", 4, False, 12),
    ],
)
def test_logits_stay_close(tmp_path, name, bits, symmetric, sqnr_db):
    source, made = run(name, tmp_path, bits=bits, symmetric=symmetric)
    assert fidelity(source, made).sqnr_db > sqnr_db


@pytest.mark.parametrize(
    ("bits", "block_size", "symmetric", "ratio"),
    # Bits per weight over 32: 8 + 32/64, and 4 + 32/64 + 4/64.
    [(8, 64, True, 8.5 / 32), (4, 64, True, 4.5 / 32), (4, 64, False, 4.5625 / 32), (4, 16, True, 6 / 32)],
)
def test_size_is_what_the_scheme_says(tmp_path, bits, block_size, symmetric, ratio):
    source, made = run("mlp", tmp_path, bits=bits, block_size=block_size, symmetric=symmetric)
    # 784, 256 and 100 inputs, filled up to whole blocks.
    padded = sum(-(-k // block_size) * block_size * n for k, n in ((784, 256), (256, 100), (100, 10)))
    assert made.path.stat().st_size == pytest.approx(4 * padded * ratio + 4 * 366, abs=3000)
    assert made.path.stat().st_size < source.path.stat().st_size / (3.4 if bits == 8 else 5)


def test_the_artifact_keeps_its_precision_and_the_file_says_how_weights_are_stored(tmp_path):
    log = Log()
    _, made = run("vit", tmp_path, log, bits=4, block_size=32)
    assert (made.format, made.precision, made.history) == (Format.ONNX, Precision.FP32, ("to_onnx", "weight_only"))
    model = onnx.load(made.path)
    text = {entry.key: entry.value for entry in model.metadata_props}
    assert text["weights"] == "int4 in blocks of 32 inputs, asymmetric (MatMulNBits)"
    assert text["precision"] == "fp32"
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 17, "com.microsoft": 1}
    assert operators(made.path).count("MatMulNBits") == 9
    assert log.lines[0] == f"weight_only: weights of 9 of 9 layers as {text['weights']}"
    assert any("4 MatMul in float, a product of two activations" in line for line in log.lines)
    assert any("1 Conv in float, only matrix products" in line for line in log.lines)


def test_integer_arithmetic_is_called_int8(tmp_path):
    source, made = run("mlp", tmp_path, accuracy_level=4)
    assert made.precision is Precision.INT8
    assert fidelity(source, made).sqnr_db > 32
    assert WeightOnly(accuracy_level=4).precision_from(Precision.FP32) is Precision.INT8
    assert WeightOnly(accuracy_level=1).precision_from(Precision.FP32) is Precision.FP32


def test_recurrent_layers_stay_float_and_excluded_layers_too(tmp_path):
    log = Log()
    _, made = run("lstm", tmp_path, log)
    assert operators(made.path).count("LSTM") == 2
    assert any("2 LSTM in float, only matrix products have a weight-only kernel" in line for line in log.lines)
    _, made = run("branches", tmp_path, exclude=("left",))
    kinds = operators(made.path)
    assert (kinds.count("Gemm"), kinds.count("MatMulNBits")) == (1, 1)


def test_nothing_to_quantize_names_the_stage_that_can(tmp_path):
    with pytest.raises(StageError, match=r"nothing to quantize, the model has no MatMul or Gemm .*fix: .*ptq_static"):
        run("headless", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_quantized_file_is_not_quantized_again(tmp_path):
    _, made = run("mlp", tmp_path)
    with pytest.raises(StageError, match=r"quantized already \(it has MatMulNBits"):
        WeightOnly().run(made, context(tmp_path, made, "again"))


def test_a_file_that_is_too_far_off_is_not_handed_over(tmp_path, monkeypatch):
    monkeypatch.setitem(weight_only._LOWEST_SQNR_DB, 4, 60.0)
    with pytest.raises(ParityError, match=r"signal-to-noise ratio is \d\d\.\d dB, at least 60 dB wanted"):
        run("mlp", tmp_path, bits=4)
    assert not list(tmp_path.iterdir())


def test_targets_that_cannot_run_it_refuse_before_any_work():
    WeightOnly().requires(load_target("raspberry_pi_4", []), Precision.FP32, "weight_only")
    with pytest.raises(Refusal, match=r"MatMulNBits, which ONNX Runtime executes and .*TensorRT 8\.5.*precision=int8"):
        WeightOnly().requires(load_target("jetson_xavier_nx", []), Precision.FP32, "weight_only")
    with pytest.raises(Refusal, match=r"MatMulNBits, .*Jetson Nano's runtime, TensorRT 8\.2.*precision=fp16"):
        WeightOnly().requires(load_target("jetson_nano", []), Precision.FP32, "weight_only")
    with pytest.raises(Refusal, match="its input is already int8"):
        WeightOnly().requires(load_target("raspberry_pi_4", []), Precision.INT8, "weight_only")


@pytest.mark.parametrize("options", [{"bits": 2}, {"block_size": 8}, {"block_size": 48}, {"accuracy_level": 2}])
def test_impossible_options_do_not_validate(options):
    with pytest.raises(ValidationError):
        WeightOnly(**options)
