"""Files that cannot be optimized, and the one line that says why."""

from __future__ import annotations

import onnx
import onnx.external_data_helper
import pytest
from text_graphs import graph, network, saved

from compress.config.schema import load_target
from compress.core.errors import StageError
from compress.optimize.source import opset, read_source

PI, NANO = (load_target(name, []) for name in ("raspberry_pi_4", "jetson_nano"))


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x08\x08\x12"], ids=["empty", "text", "cut off"])
def test_damaged_files(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(StageError, match=r"model\.onnx is not a readable ONNX file: .* \| fix: export it again"):
        read_source(path, PI, "optimize")


def test_a_file_cut_off_in_its_weights(tmp_path):
    path = saved(network(), tmp_path / "model.onnx").path
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(StageError, match="not a readable ONNX file"):
        read_source(path, PI, "optimize")


def test_a_missing_file(tmp_path):
    with pytest.raises(StageError, match=r"not a readable ONNX file: .*No such file"):
        read_source(tmp_path / "none.onnx", PI, "optimize")


def test_an_opset_above_the_target(tmp_path):
    path = saved(network(), tmp_path / "model.onnx").path
    assert opset(read_source(path, PI, "optimize")) == 17
    with pytest.raises(
        StageError, match=r"uses opset 17, above 13, the newest that NVIDIA Jetson Nano .*fix: .*to_onnx"
    ):
        read_source(path, NANO, "optimize")


def test_the_long_name_of_the_standard_domain_becomes_the_short_one(tmp_path):
    model = network()
    model.opset_import[0].domain = model.graph.node[0].domain = "ai.onnx"
    read = read_source(saved(model, tmp_path / "model.onnx").path, PI, "optimize")
    assert {read.opset_import[0].domain, *(node.domain for node in read.graph.node)} == {""}
    assert opset(model) == 17


def test_a_custom_operator_is_named(tmp_path):
    model = graph("y = my.own.Swish(x)", y="float[1,3,8,8]", imports=', "my.own" : 1')
    with pytest.raises(
        StageError, match=r"custom operator my\.own\.Swish .*no rewriting could be proven.*~stage\.optimize"
    ):
        read_source(saved(model, tmp_path / "m.onnx").path, PI, "optimize")


def test_weights_beside_the_file_are_read(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(network(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert len(read_source(path, PI, "optimize").graph.initializer[0].raw_data) == 8 * 27 * 4
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(StageError, match=r"weights beside .*model\.onnx cannot be read"):
        read_source(path, PI, "optimize")


def test_weights_that_lie_elsewhere_are_not_followed(tmp_path):
    model = network()
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(8 * 27 * 4))
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../secret.bin", length=8 * 27 * 4)
    model.graph.initializer[0].ClearField("raw_data")
    path = saved(model, tmp_path / "inside" / "model.onnx").path
    with pytest.raises(StageError, match=r"weights beside .* cannot be read"):
        read_source(path, PI, "optimize")


def test_two_gibibytes_are_too_many(tmp_path):
    """Only the lengths are read: nothing of that size needs to exist."""
    model = network()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "weights.bin", length=3 << 30)
    model.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(StageError, match=r"has 3\.0 GiB with its weights, optimizers take less than 2 GiB"):
        read_source(saved(model, tmp_path / "model.onnx").path, PI, "optimize")
