"""Bottleneck classes: right on constructed models, and decided by the largest limit alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from small_models import elementwise_chain, large_product, save, tiny_operators

from compress.config.schema import load_target
from compress.core.artifact import Format, Precision
from compress.profile.analyze import profile
from compress.profile.bottleneck import Bottleneck, bound_ms, classify, classify_model, layer_advice, model_advice
from compress.profile.layer import LayerTime, Settings, Source
from compress.profile.machine import MachineLimits, measured_limits, published_limits
from compress.profile.readers import find_reader

QUICK = Settings(seconds=1.5, runs=30)
LIMITS = MachineLimits({Precision.FP32: 100.0, Precision.INT8: 400.0}, 10.0, 1.0, "measured")
sizes = st.integers(0, 10**12)
layers = st.builds(LayerTime, st.just("l"), st.just("Conv"), st.floats(1e-4, 1e4), sizes, sizes)


def profiled(path, settings=QUICK):
    return profile(Source(Format.ONNX, path, Precision.FP32), find_reader(Format.ONNX), settings)[0]


def test_a_large_product_is_bound_by_arithmetic(tmp_path):
    found = profiled(large_product(tmp_path / "gemm.onnx", 768))
    layer = next(layer for layer in found.layers if layer.op == "MatMul")
    assert layer.name == "product"
    assert layer.operations == 2 * 768**3
    assert layer.bytes == 3 * 768**2 * 4
    assert layer.bottleneck is found.model.bottleneck is Bottleneck.COMPUTE
    assert "INT8" in layer.advice
    assert "precision=int8" in found.model.advice


def test_a_chain_of_additions_of_large_tensors_is_bound_by_bandwidth(tmp_path):
    found = profiled(elementwise_chain(tmp_path / "chain.onnx"))
    assert [layer.bottleneck for layer in found.layers] == [Bottleneck.BANDWIDTH] * 4
    assert found.model.bottleneck is Bottleneck.BANDWIDTH
    assert {layer.bytes for layer in found.layers[1:]} == {3 * 4 * 4_000_000}
    assert found.layers[1].intensity == pytest.approx(1 / 12)
    assert "fuse" in found.model.advice


def test_hundreds_of_tiny_operators_are_bound_by_starting_them(tmp_path):
    found = profiled(tiny_operators(tmp_path / "tiny.onnx"))
    assert len(found.layers) == 300
    assert {layer.bottleneck for layer in found.layers} == {Bottleneck.LAUNCH}
    assert found.model.bottleneck is Bottleneck.LAUNCH
    assert "batch" in found.model.advice
    assert 0.1 < found.roofline.launch_us < 100


def test_copies_to_a_gpu_bind_a_model_that_computes_little(tmp_path):
    """One pass over a large image: 8 MB go up and down for a sum that a GPU makes in microseconds."""
    from compress.formats.tensorrt.build import build_engine
    from compress.formats.tensorrt.plan import EnginePlan
    from compress.formats.tensorrt.runtime import unavailable

    reason = unavailable()
    if reason:
        pytest.skip(f"a transfer bound model needs TensorRT and a GPU: {reason}")
    nodes = [helper.make_node("Neg", ["x"], ["y"], name="negate")]
    shape = [1, 3, 832, 832]
    save(tmp_path / "net.onnx", nodes, {"x": shape}, {"y": shape})
    plan = EnginePlan("net.onnx", "", Precision.FP32, (1, 1, 1), 64, None, sparse=False, expects="")
    build_engine(plan, tmp_path / "net.onnx", tmp_path / "net.engine")
    source = Source(Format.TENSORRT, tmp_path / "net.engine", Precision.FP32)
    target = load_target("jetson_orin_nano", [])
    found, _ = profile(source, find_reader(Format.TENSORRT), QUICK, target)
    assert found.model.bottleneck is Bottleneck.TRANSFER


def test_a_transfer_is_a_transfer_whatever_its_size():
    layer = LayerTime("images", "Memcpy", 0.001, 0, 600_000, transfer=True)
    assert classify(layer, LIMITS) is Bottleneck.TRANSFER
    assert "pin" in layer_advice(layer, Bottleneck.TRANSFER, LIMITS)
    share = classify_model([(layer, Bottleneck.TRANSFER)], 0.0, 1.0)
    assert share == (Bottleneck.TRANSFER, 1.0)


@given(layers, st.floats(1e-4, 1e4))
def test_the_measured_time_does_not_decide_the_class(layer, ms):
    other = LayerTime(layer.name, layer.op, ms, layer.operations, layer.bytes)
    assert classify(layer, LIMITS) is classify(other, LIMITS)


@given(layers)
def test_no_limit_is_above_the_bound(layer):
    bound = bound_ms(layer, LIMITS)
    assert bound >= LIMITS.launch_us / 1000
    assert bound >= layer.operations / 100e9 * 1000 * (1 - 1e-9)
    assert bound >= layer.bytes / 10e9 * 1000 * (1 - 1e-9)


@given(layers, st.integers(2, 100))
def test_more_arithmetic_never_takes_a_layer_away_from_compute(layer, factor):
    more = LayerTime(layer.name, layer.op, layer.median_ms, layer.operations * factor, layer.bytes)
    if classify(layer, LIMITS) is Bottleneck.COMPUTE:
        assert classify(more, LIMITS) is Bottleneck.COMPUTE


def test_integers_are_held_against_the_integer_peak():
    layer = LayerTime("c", "QLinearConv", 1.0, 10**9, 4 * 10**7, Precision.INT8)  # 2.5 ms at 400, 4 ms of memory
    assert classify(layer, LIMITS) is Bottleneck.BANDWIDTH
    assert classify(LayerTime("c", "Conv", 1.0, 10**9, 4 * 10**7), LIMITS) is Bottleneck.COMPUTE


def test_a_gap_counts_as_launch_only_up_to_what_starting_costs():
    busy = [(LayerTime("gemm", "Gemm", 5.0, 10**9, 10**6), Bottleneck.COMPUTE)]
    assert classify_model(busy, overhead_ms=50.0, launch_us=1.0)[0] is Bottleneck.COMPUTE  # a neighbour's load
    small = [(LayerTime(str(i), "Add", 0.0005, 4, 48), Bottleneck.LAUNCH) for i in range(300)]
    kind, share = classify_model([*small, (LayerTime("c", "Conv", 0.3, 10**8, 10**5), Bottleneck.COMPUTE)], 0.3, 1.0)
    assert kind is Bottleneck.LAUNCH
    assert share == pytest.approx(0.45 / 0.75)


def test_advice_knows_int8_batches_and_kernels_far_below_the_roofline():
    slow = LayerTime("dw", "Conv", 10.0, 10**7, 10**5)
    assert layer_advice(slow, Bottleneck.COMPUTE, LIMITS).startswith("at 1% of the roofline, so the kernel")
    assert "already INT8" in layer_advice(
        LayerTime("c", "QLinearConv", 0.003, 10**6, 10**3, Precision.INT8), Bottleneck.COMPUTE, LIMITS
    )
    assert "larger batch" in model_advice(Bottleneck.LAUNCH, 0.9, 1.0, Precision.FP32, batch=8)
    assert "try another runtime" in model_advice(Bottleneck.BANDWIDTH, 0.9, 0.05, Precision.INT8, batch=1)


def test_the_machine_computes_faster_than_it_moves():
    limits = measured_limits(1, launch_us=1.0)
    assert 0.1 < limits.bandwidth_gb_s < 2000
    assert limits.peak(Precision.FP32) > limits.bandwidth_gb_s  # or no product would ever be bound by arithmetic
    assert limits.peak(Precision.FP16) == limits.peak(Precision.FP32)
    assert limits.source == "measured"


def test_published_peaks_of_a_target():
    limits = published_limits(load_target("raspberry_pi_4", []), launch_us=2.0)
    assert limits.source == "published"
    assert limits.peak(Precision.FP32) == pytest.approx(57.6)
    assert limits.bandwidth_gb_s == pytest.approx(12.8)


def test_a_small_layer_with_a_slow_kernel_is_not_told_to_be_batched_alone():
    slow = LayerTime("first", "QLinearConv", 0.023, 70_000, 5_000, Precision.INT8)
    assert classify(slow, LIMITS) is Bottleneck.LAUNCH
    assert layer_advice(slow, Bottleneck.LAUNCH, LIMITS).startswith("at 4% of the roofline, so the kernel is the limit")
