"""Written files: IR version, metadata, and what is not written."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from compress.core.artifact import InputSpec, Precision
from compress.core.errors import StageError
from compress.formats.onnx.metadata import metadata
from compress.formats.onnx.write import read, write_checked


def graph(opset: int = 13, dtype: str = "float", op: str = "Add") -> ir.Model:
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g ({dtype}[1,3] x) => ({dtype}[1,3] y) <{dtype}[3] w = {{1, 2, 3}}> {{ y = {op}(x, w) }}"""
    return ir.serde.deserialize_model(onnx.parser.parse_model(text))


@pytest.mark.parametrize(("opset", "version"), [(13, 8), (17, 8), (19, 9), (20, 9), (21, 10)])
def test_ir_version_is_the_oldest_that_holds_the_opset(opset, version, tmp_path):
    write_checked(graph(opset), tmp_path / "a.onnx", {"key": "value"})
    model = onnx.load(tmp_path / "a.onnx")
    assert model.ir_version == version
    assert {entry.key: entry.value for entry in model.metadata_props} == {"key": "value"}


def test_invalid_graph_is_not_written(tmp_path):
    with pytest.raises(StageError, match=r"^the exported graph is not valid ONNX: .*[^\n]+$"):
        write_checked(graph(op="Nonsense"), tmp_path / "a.onnx", {})
    assert not list(tmp_path.iterdir())


def test_float64_weights_are_refused_by_name(tmp_path):
    with pytest.raises(StageError, match=r"constant 'w' is float64"):
        write_checked(graph(dtype="double"), tmp_path / "a.onnx", {})


def test_read_gives_back_what_was_written(tmp_path):
    write_checked(graph(), tmp_path / "a.onnx", {})
    model = read(tmp_path / "a.onnx")
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), [1, 2, 3])


def test_metadata_is_text():
    spec = InputSpec((1, 8, 8), "gray", (0.5,), (0.25,))
    entries = metadata(spec, Precision.INT8, ["ptq", "to_onnx"])
    assert entries["mean"] == "[0.5]"
    assert entries["channel_order"] == "gray"
    assert entries["precision"] == "int8"
    assert entries["history"] == '["ptq", "to_onnx"]'
