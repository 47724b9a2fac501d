"""Names of outputs that a model carries itself."""

from __future__ import annotations

import json

import onnx
import pytest
from onnx import helper

from compress.models import FactoryModel, FileModel, TorchvisionModel, class_names


def test_pretrained_weights_know_their_categories():
    names = class_names(TorchvisionModel(kind="torchvision", name="resnet18", weights="DEFAULT"))
    assert len(names) == 1000
    assert names[:2] == ("tench", "goldfish")


@pytest.mark.parametrize("options", [{}, {"weights": "NOPE"}, {"name": "resnet81", "weights": "DEFAULT"}])
def test_what_has_no_weights_has_no_names(options):
    assert class_names(TorchvisionModel(**{"kind": "torchvision", "name": "resnet18", **options})) is None
    assert class_names(FactoryModel(kind="factory", factory="nets:net")) is None


def onnx_file(tmp_path, **metadata: str):
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    model = helper.make_model(helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value]))
    helper.set_model_props(model, metadata)
    onnx.save(model, tmp_path / "model.onnx")
    return FileModel(kind="file", path=tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"classes": '["cat", "dog"]'}, ("cat", "dog")),
        ({"names": "{0: 'cat', 1: 'dog'}"}, ("cat", "dog")),
        ({"names": "{1: 'dog', 0: 'cat'}"}, ("cat", "dog")),
        ({"names": "{0: 'cat', 2: 'dog'}"}, None),
        ({"names": "__import__('os').getcwd()"}, None),
        ({"names": "{%s: 'cat'}" % ("1" * 5000)}, None),
        ({"names": '{"%s": "cat"}' % ("1" * 5000)}, None),
        ({"names": "{[]: 'cat'}"}, None),
        ({"names": "(" * 10_000}, None),
        ({"labels": "cat, dog"}, None),
        ({}, None),
    ],
)
def test_metadata_of_an_onnx_file(tmp_path, metadata, names):
    assert class_names(onnx_file(tmp_path, **metadata)) == names


def test_the_manifest_of_the_run_that_delivered_the_file(tmp_path):
    model = onnx_file(tmp_path)
    manifest = {"classes": ["cat", "dog"], "files": [{"path": "model.onnx"}]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert class_names(model) == ("cat", "dog")
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "files": [{"path": "other.onnx"}]}))
    assert class_names(model) is None
    (tmp_path / "manifest.json").write_text("[]")
    assert class_names(model) is None


def test_a_file_that_is_missing_or_broken_is_not_this_modules_to_report(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\xff" * 100)
    assert class_names(FileModel(kind="file", path=tmp_path / "broken.onnx")) is None
    assert class_names(FileModel(kind="file", path=tmp_path / "absent.onnx")) is None
