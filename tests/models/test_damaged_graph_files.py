"""Damage inside a `.pt2` that torch itself takes for weights, and files that are too large."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from graph_networks import SPEC, edit_program, edited, make_net, save_exported

from compress.core.errors import ModelError
from compress.models.exported import load_exported
from compress.models.graph_files import load_graph_file


@pytest.fixture(scope="module")
def net():
    return make_net()


def edit_weight(path: Path, name: str, change) -> Path:
    def replace(member, content):
        if not member.endswith("model_weights_config.json"):
            return content
        config = json.loads(content)
        change(config["config"][name]["tensor_meta"])
        return json.dumps(config).encode()

    return edited(path, replace)


@pytest.mark.parametrize("length", [0, 4, 860, 868, 1728])
def test_records_of_another_length(net, tmp_path, length):
    def replace(member, content):
        return (content * 2)[:length] if member.endswith("weights/weight_0") else content

    path = edited(save_exported(net, tmp_path / "a.pt2"), replace)
    with pytest.raises(ModelError, match=rf"the record of the tensor 'conv.weight' has {length} bytes, not 864"):
        load_exported(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("strides", [{"as_int": 4000}, {"as_int": 9}, {"as_int": 3}, {"as_int": 1}]), ("storage_offset", {"as_int": 9})],
)
def test_tensors_beyond_their_record(net, tmp_path, key, value):
    path = edit_weight(save_exported(net, tmp_path / "a.pt2"), "conv.weight", lambda meta: meta.update({key: value}))
    with pytest.raises(ModelError, match=r"the record of the tensor 'conv.weight' has 864 bytes, not \d+"):
        load_exported(path)


@pytest.mark.parametrize(("dtype", "name"), [(4, "int32"), (10, "complex64"), (12, "bool"), (5, "int64")])
def test_parameters_of_another_type(net, tmp_path, dtype, name):
    path = edit_weight(save_exported(net, tmp_path / "a.pt2"), "fc.bias", lambda meta: meta.update(dtype=dtype))
    with pytest.raises(ModelError, match=rf"the tensor 'fc.bias' is {name} \[5\] but the program takes float32 \[5\]"):
        load_exported(path)


def test_parameters_and_program_of_another_type(net, tmp_path):
    def change(program):
        program["graph_module"]["graph"]["tensor_values"]["p_fc_bias"]["dtype"] = 4

    path = edit_weight(save_exported(net, tmp_path / "a.pt2"), "fc.bias", lambda meta: meta.update(dtype=4))
    with pytest.raises(ModelError, match=r"the parameter 'fc.bias' is int32, not float32"):
        load_exported(edit_program(path, change))


def test_files_that_are_too_large(net, tmp_path, monkeypatch):
    path = save_exported(net, tmp_path / "a.pt2")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/extra/bomb", bytes(1_000_000))
    monkeypatch.setattr("compress.models.exported.LARGEST", 200_000)
    with pytest.raises(ModelError, match="unpacks to more than"):
        load_exported(path)
    monkeypatch.setattr("compress.models.graph_files.LARGEST", 1000)
    with pytest.raises(ModelError, match="has more than"):
        load_graph_file(path, SPEC)
