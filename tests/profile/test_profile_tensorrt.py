"""TensorRT's layer times with copies as layers; a runner with known times stands in where there is no GPU."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from small_models import save

from compress.core.artifact import Format, Precision
from compress.core.errors import ConfigError
from compress.formats.tensorrt.runtime import CallTimes
from compress.profile.analyze import analyze
from compress.profile.bottleneck import Bottleneck
from compress.profile.layer import Settings, Source
from compress.profile.machine import MachineLimits
from compress.profile.readers import tensorrt


class Runner:
    name = "tensorrt 8.5.3 on a GPU"
    smallest = largest = 1
    sample_shape = (3, 16, 16)

    def __call__(self, images):
        return np.zeros((len(images), 10), np.float32)

    def layer_times(self, images, *, runs):
        return {"conv + relu": 0.2, "Reformatting CopyNode for Input Tensor 0": 0.05}


@pytest.fixture
def engine(tmp_path, monkeypatch):
    def interleaved(runners, images, *, runs):
        return [CallTimes((0.5, 0.6, 0.7), (0.2, 0.2, 0.3), (0.1, 0.1, 0.1))]

    monkeypatch.setattr(tensorrt, "load_engine", lambda path: Runner())
    monkeypatch.setattr(tensorrt, "interleaved", interleaved)
    return tmp_path / "net.engine"


def test_copies_and_layers_with_the_work_of_the_onnx_file_beside(engine):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    ]
    weight = np.zeros((8, 3, 3, 3), np.float32)
    ports = {"x": [1, 3, 16, 16]}, {"y": [1, 8, 16, 16]}
    save(engine.with_name("net.onnx"), nodes, *ports, [("w", weight)])
    found = tensorrt.record(Source(Format.TENSORRT, engine, Precision.FP16), Settings())
    assert [layer.op for layer in found.layers] == ["Memcpy", "Conv", "Reformat", "Memcpy"]
    assert [layer.transfer for layer in found.layers] == [True, False, False, True]
    assert found.layers[0].bytes == 4 * 3 * 256
    assert found.layers[1].operations == 2 * 8 * 256 * 27
    assert found.measured_ms == pytest.approx(0.2 + 0.6 + 0.1)
    assert found.profiling_overhead == pytest.approx(0.25)
    limits = MachineLimits({Precision.FP32: 1000.0}, 100.0, 3.8, "published")
    assert analyze(found, limits, "net.engine").model.bottleneck is Bottleneck.TRANSFER


def test_an_engine_alone_does_not_say_what_it_computes(engine):
    with pytest.raises(ConfigError, match="no ONNX file beside it names them"):
        tensorrt.record(Source(Format.TENSORRT, engine, Precision.FP16), Settings())


def test_a_file_whose_nodes_are_not_counted_names_the_layers_all_the_same(engine, monkeypatch):
    """Neg has no arithmetic worth counting: on an H100 such an engine had no profile."""
    monkeypatch.setattr(Runner, "layer_times", lambda self, images, *, runs: {"negate": 0.05})
    shape = {"x": [1, 3, 16, 16]}, {"y": [1, 3, 16, 16]}
    save(engine.with_name("net.onnx"), [helper.make_node("Neg", ["x"], ["y"], name="negate")], *shape)
    found = tensorrt.record(Source(Format.TENSORRT, engine, Precision.FP32), Settings())
    assert [layer.name for layer in found.layers] == ["images to the GPU", "negate", "logits from the GPU"]
