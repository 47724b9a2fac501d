"""ONNX Runtime's optimizer run offline, level by level."""

from __future__ import annotations

import onnx
import pytest

from compress.core.errors import StageError
from compress.formats.onnx.ort_graph import optimized_graph, write_optimized

MODEL = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,1,4,4] x) => (float[1,1,4,4] y)
<float[1,1,1,1] w = {2}> {
    i = Identity(x)
    c = Conv(i, w)
    y = Relu(c)
}"""


@pytest.fixture
def path(tmp_path):
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_levels(path):
    kinds = {
        level: [node.op_type for node in optimized_graph(path, level).graph.node] for level in ("basic", "extended")
    }
    assert kinds == {"basic": ["Conv", "Relu"], "extended": ["FusedConv"]}
    assert optimized_graph(path).graph.node[0].domain == "com.microsoft"


def test_ort_format_is_a_flatbuffer(path, tmp_path):
    write_optimized(path, tmp_path / "model.ort", level="extended", architecture="aarch64", ort_format=True)
    assert (tmp_path / "model.ort").read_bytes()[4:8] == b"ORTM"


def test_a_file_that_onnxruntime_refuses(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(StageError, match=r"ONNX Runtime cannot load .*broken\.onnx"):
        optimized_graph(tmp_path / "broken.onnx")
