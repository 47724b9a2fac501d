"""TFLite and Edge TPU runners: integers inside, floats outside, and one clear line for what is missing."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import ConfigError, DeviceMissing, StageError
from compress.formats.edgetpu import runtime as edgetpu
from compress.formats.tflite import package as tflite_package
from compress.formats.tflite.runtime import open_file

SPEC = InputSpec((3, 4, 4))


@pytest.fixture
def pooled(tmp_path):
    """Average over space of an INT8 image `[1, 4, 4, 3]`."""
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    from compress.formats.tflite.flatbuffer import new_code, pack, schema

    generated = schema()
    model, graph, operator = generated.ModelT(), generated.SubGraphT(), generated.OperatorT()
    model.version, model.operatorCodes, model.buffers = 3, [], [generated.BufferT()]
    graph.tensors = []
    for shape in ([1, 4, 4, 3], [1, 1, 1, 3]):
        tensor = generated.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = b"t", shape, generated.TensorType.INT8, 0
        tensor.quantization = generated.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [0.125], [-7]
        graph.tensors.append(tensor)
    operator.opcodeIndex = new_code(model, "AVERAGE_POOL_2D", 2)
    operator.inputs, operator.outputs = [0], [1]
    operator.builtinOptionsType, operator.builtinOptions = (
        generated.BuiltinOptions.Pool2DOptions,
        generated.Pool2DOptionsT(),
    )
    options = operator.builtinOptions
    options.filterWidth = options.filterHeight = 4
    options.strideW = options.strideH = options.padding = 1
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [1]
    model.subgraphs = [graph]
    path = tmp_path / "pool.tflite"
    path.write_bytes(pack(model))
    return path


@pytest.mark.parametrize("xnnpack", [True, False])
def test_channels_first_floats_outside(pooled, xnnpack):
    images = np.random.default_rng(0).uniform(-10, 10, (5, 3, 4, 4)).astype(np.float32)
    run = open_file(pooled, threads=2, xnnpack=xnnpack)
    assert run.name.startswith("ai-edge-litert 2.")
    logits = run(images).reshape(5, 3)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, images.mean((2, 3)), atol=0.125)
    np.testing.assert_array_equal(run(images[2:3]).reshape(3), logits[2])


def test_numbers_beyond_the_range_are_clipped(pooled):
    run = open_file(pooled, threads=1)
    assert run(np.full((1, 3, 4, 4), 1e6, np.float32)).max() == (127 + 7) * 0.125


def test_a_file_that_is_not_one(tmp_path, pooled):
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(pooled.read_bytes()[:100])
    with pytest.raises(StageError, match=r"ai-edge-litert .* cannot load .*bad\.tflite") as error:
        open_file(bad, threads=1)
    assert "\n" not in str(error.value)


@pytest.mark.real_data
def test_a_compiled_file_says_so(shared_data):
    with pytest.raises(StageError, match="compiled for an Edge TPU"):
        open_file(shared_data / "tflite" / "coral" / "split_concat_edgetpu.tflite", threads=1)


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ((3, 12), r"pip install 'edge-compress\[tflite\]' \(ai-edge-litert, which replaces tflite-runtime\)"),
        ((3, 9), r"pip install tflite-runtime==2\.14\.0 'numpy<2'"),
        (
            (3, 6),
            "use Python 3.10 or later with ai-edge-litert, or 3.8 to 3.11 with tflite-runtime==2.14.0: neither has",
        ),
    ],
)
def test_what_to_install_on_which_python(python, words):
    import re

    assert re.search(words, tflite_package.how_to_install(python))


def test_no_interpreter_at_all(monkeypatch):
    monkeypatch.setattr(tflite_package, "_PACKAGES", (("no_such_package.interpreter", "no-such-package"),))
    with pytest.raises(ConfigError, match=r"no package that runs \.tflite files is installed \| fix: "):
        tflite_package.find_interpreter()


def test_a_package_built_for_another_numpy(monkeypatch, tmp_path):
    broken = tmp_path / "broken_runtime"
    broken.mkdir()
    (broken / "__init__.py").write_text("")
    (broken / "interpreter.py").write_text("raise ImportError('numpy.core.multiarray failed to import')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tflite_package, "_PACKAGES", (("broken_runtime.interpreter", "broken"),))
    with pytest.raises(ConfigError, match=r"broken cannot be imported: numpy\.core\.multiarray failed to import"):
        tflite_package.find_interpreter()


class _Module:
    """An interpreter package whose delegate or whose interpreter refuses with a given error."""

    def __init__(self, delegate=None, interpreter=None):
        self.delegate, self.interpreter = delegate, interpreter

    def load_delegate(self, library):
        if self.delegate:
            raise self.delegate
        return library

    def Interpreter(self, **_):
        raise self.interpreter


NEWER = "Internal: Package requires runtime version (14), which is newer than this runtime version (13)."


@pytest.mark.parametrize(
    ("module", "kind", "message"),
    [
        (
            _Module(delegate=OSError("libedgetpu.so.1: cannot open shared object file")),
            DeviceMissing,
            "is not installed",
        ),
        (
            _Module(delegate=ValueError("Failed to load delegate from libedgetpu.so.1")),
            DeviceMissing,
            "no Edge TPU is conn",
        ),
        (_Module(interpreter=RuntimeError(NEWER)), StageError, "compiled for Edge TPU runtime 14, this machine has 13"),
        (_Module(interpreter=ValueError("Could not open")), StageError, "the Edge TPU runtime cannot load"),
    ],
)
def test_what_the_edge_tpu_lacks(monkeypatch, tmp_path, module, kind, message):
    monkeypatch.setattr(edgetpu, "find_interpreter", lambda: (module, "ai-edge-litert 2.3.0"))
    artifact = Artifact(Format.EDGETPU, tmp_path / "net_edgetpu.tflite", Precision.INT8, SPEC, False)
    with pytest.raises(kind, match=message) as error:
        edgetpu.load(artifact, threads=1)
    assert "\n" not in str(error.value)
    assert error.value.fix


@pytest.mark.skipif(sys.platform != "linux", reason="the library's name is Linux's")
def test_without_the_runtime_library_the_fix_is_named(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    artifact = Artifact(Format.EDGETPU, tmp_path / "net_edgetpu.tflite", Precision.INT8, SPEC, False)
    with pytest.raises(DeviceMissing, match=r"libedgetpu\.so\.1 is not installed \| fix: install the Edge TPU runtime"):
        edgetpu.load(artifact, threads=1)
