"""Reading and writing files: what goes in comes out, aligned; what is damaged is refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from compress.core.errors import ModelError
from compress.formats.tflite.flatbuffer import CONSTANT_ALIGNMENT, pack, unpack
from compress.formats.tflite.interface import METADATA_NAME, embed_metadata, name_interface, set_io
from compress.formats.tflite.network import parse_network, read_network


@pytest.fixture
def pooled(build):
    """INT8 in, doubled by an ADD, INT8 out."""
    given = build.tensor([1, 2, 2, 1], name="in")
    three = build.tensor([1], constant=np.array([-122], np.int8), name="three")  # (-122 + 128) / 2
    taken = build.tensor([1, 2, 2, 1], scale=0.25, zero_point=3, name="out")
    build.operator("ADD", 2, [given, three], [taken], "AddOptions")
    return build.interface(given, taken)


def test_a_network_is_read_as_it_was_written(pooled):
    network = parse_network(pack(pooled))
    (operator,) = network.operators
    assert (operator.kind, operator.version) == ("ADD", 2)
    assert [tensor.name for tensor in (*network.inputs, *network.outputs)] == ["in", "out"]
    assert operator.outputs[0].quantization.scale == (0.25,)
    assert operator.outputs[0].quantization.zero_point == (3,)
    assert operator.activations == network.inputs
    np.testing.assert_array_equal(operator.inputs[1].constant, [-122])
    assert network.outputs[0].port.dtype == "int8"


def test_constants_are_aligned_for_vector_loads(build):
    given, taken = build.tensor([1, 4]), build.tensor([1, 4])
    marks = [np.arange(size, dtype=np.int8) + 40 for size in (3, 17, 33)]
    stored = [build.tensor(mark.shape, constant=mark) for mark in marks]
    build.operator("ADD", 2, [given, stored[0]], [taken], "AddOptions")
    content = pack(build.interface(given, taken))
    assert all(content.find(mark.tobytes()) % CONSTANT_ALIGNMENT == 0 for mark in marks)


def test_constants_kept_behind_the_flatbuffer_come_inline(pooled):
    values = pooled.buffers[1].data
    pooled.buffers[1].data = None
    size = len(pack(pooled))
    pooled.buffers[1].offset, pooled.buffers[1].size = size, 1
    from compress.formats.tflite.flatbuffer import schema

    pooled.buffers[1].__class__ = schema().BufferT  # as other writers leave it
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(pooled.Pack(builder), file_identifier=b"TFL3")
    content = bytes(builder.Output())
    pooled.buffers[1].offset = len(content)
    builder = flatbuffers.Builder(1024)
    builder.Finish(pooled.Pack(builder), file_identifier=b"TFL3")
    inline = unpack(bytes(builder.Output()) + values.tobytes())
    assert inline.buffers[1].offset == 0
    np.testing.assert_array_equal(inline.buffers[1].data, values)


def test_metadata_is_replaced_and_not_repeated(pooled):
    embed_metadata(pooled, {"labels": ["a"]})
    embed_metadata(pooled, {"labels": ["katze", "größe"], "mean": [0.5]})
    metadata = parse_network(pack(pooled)).metadata
    assert list(metadata) == [METADATA_NAME]
    assert json.loads(metadata[METADATA_NAME]) == {"labels": ["katze", "größe"], "mean": [0.5]}


def test_uint8_outside_is_int8_shifted(pooled, run_bytes):
    codes = np.array([-128, -100, 0, 50], np.int8).reshape(1, 2, 2, 1)
    inside = run_bytes(pack(pooled), codes)
    name_interface(pooled, input="image", output="logits")
    set_io(pooled, "uint8")
    content = pack(pooled)
    outside = run_bytes(content, (codes.astype(np.int16) + 128).astype(np.uint8))
    np.testing.assert_array_equal(outside, inside.astype(np.int16) + 128)
    network = parse_network(content)
    assert [operator.kind for operator in network.operators] == ["QUANTIZE", "ADD", "QUANTIZE"]
    assert (network.inputs[0].name, network.inputs[0].dtype) == ("image", "uint8")
    assert network.outputs[0].quantization.zero_point == (131,)


def test_float_outside_needs_no_scales(pooled, run_bytes):
    set_io(pooled, "float32")
    real = np.array([0.0, 1.0, 2.5, 20.0], np.float32).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(run_bytes(pack(pooled), real), real + 3, atol=0.13)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "lacks the mark 'TFL3'"),
        (lambda content: b"PK\x03\x04" + content[4:8].replace(b"TFL3", b"zip!") + content[8:], "is not a TFLite file"),
        (lambda content: content[: len(content) // 2], "truncated or not a valid TFLite file"),
        (lambda content: content[:8] + b"\xff" * (len(content) - 8), "truncated or not a valid TFLite file"),
    ],
)
def test_a_damaged_file_is_refused(pooled, damage, message, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(damage(pack(pooled)))
    with pytest.raises(ModelError, match=message) as error:
        read_network(path)
    assert "\n" not in str(error.value)


@pytest.mark.real_data
def test_a_file_that_refers_to_nothing_is_refused(shared_data):
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    with pytest.raises(ModelError, match=r"model_invoking_error\.tflite is damaged: it refers to something"):
        read_network(shared_data / "tflite" / "coral" / "invalid_models" / "model_invoking_error.tflite")


def test_a_missing_file_is_named(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    with pytest.raises(ModelError, match=r"none\.tflite cannot be read: it does not exist"):
        read_network(tmp_path / "none.tflite")
