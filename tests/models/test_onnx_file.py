"""ONNX files are checked against the declared input and run once."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.external_data_helper
import pytest
from onnx import TensorProto, helper

from compress.core.artifact import Format, InputSpec, Precision
from compress.core.errors import ModelError
from compress.formats.onnx.source import load_onnx
from compress.formats.runtimes import load
from compress.models import FileModel, load_model, model_digest, self_contained

SPEC = InputSpec((3, 4, 4))


def write(path, *, shape=("n", 3, 4, 4), kind=TensorProto.FLOAT, nodes=None, outputs=("y",), weights=np.float32):
    matrix = np.ones((48, 5), weights)
    nodes = nodes or [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [onnx.numpy_helper.from_array(matrix, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(("batch", "dynamic"), [("n", True), (1, False)])
def test_a_file_is_the_artifact(tmp_path, batch, dynamic):
    path = write(tmp_path / "a.onnx", shape=(batch, 3, 4, 4))
    config = FileModel(kind="file", path=path, input={"shape": (3, 4, 4)})
    artifact = load_model(config, trusted=lambda _: False, seed=0, progress=None, finetune=None)
    assert (artifact.format, artifact.path, artifact.precision) == (Format.ONNX, path, Precision.FP32)
    assert artifact.dynamic_batch is dynamic
    digest = model_digest(artifact)
    write(path, shape=("other", 3, 4, 4))
    assert model_digest(artifact) != digest


def test_precision_is_read_from_the_graph(tmp_path):
    halves = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Flatten", ["h"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
    ]
    assert load_onnx(write(tmp_path / "a.onnx", nodes=halves, weights=np.float16), SPEC).precision is Precision.FP16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"shape": ("n", 4, 4, 3)},
            r"takes the shape \['any', 4, 4, 3\] but the declared input is \[1 or any, 3, 4, 4\]",
        ),
        ({"shape": (8, 3, 4, 4)}, r"takes the shape \[8, 3, 4, 4\]"),
        ({"shape": ("n", 48)}, r"takes the shape \['any', 48\]"),
        ({"kind": TensorProto.DOUBLE, "weights": np.float64}, "takes DOUBLE input, not float32"),
        ({"nodes": [helper.make_node("Identity", ["x"], ["y"])]}, r"returns the shapes \[\[1, 3, 4, 4\]\]"),
        (
            {
                "nodes": [helper.make_node("Flatten", ["x"], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
                "outputs": ("y", "z"),
            },
            "returns the shapes",
        ),
        ({"nodes": [helper.make_node("Flaten", ["x"], ["y"])]}, "not a valid ONNX model"),
    ],
)
def test_models_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(ModelError, match=message) as caught:
        load_onnx(write(tmp_path / "a.onnx", **options), SPEC)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_model(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        load_onnx(tmp_path / "absent.onnx", SPEC)
    path = write(tmp_path / "a.onnx")
    whole = path.read_bytes()
    for content in (b"", b"hello world", whole[: len(whole) // 2], whole[:-7]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"truncated or not a valid ONNX model|not an ONNX model"):
            load_onnx(path, SPEC)


@pytest.mark.real_data
def test_the_mlperf_tiny_model(shared_data):
    artifact = load_onnx(shared_data / "onnx/ic_pretrainedResnet.onnx", InputSpec((3, 32, 32)))
    assert not artifact.dynamic_batch


def beside(path, **entries):
    """The network of `write` with its matrix in `weights.bin`; `entries` replace what the file says about it."""
    model = onnx.load(write(path))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = str(entries.pop(entry.key, entry.value))
    assert not entries
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_the_file_are_part_of_the_model(tmp_path):
    path = beside(tmp_path / "a.onnx")
    artifact = load_onnx(path, SPEC)
    digest = model_digest(artifact)
    whole = self_contained(artifact, tmp_path / "cache")
    assert whole.path.name == "a.onnx"
    assert whole.path.is_relative_to(tmp_path / "cache")
    (tmp_path / "weights.bin").write_bytes(np.full((48, 5), 2, np.float32).tobytes())
    assert model_digest(artifact) != digest
    other = self_contained(artifact, tmp_path / "cache")
    image = np.ones((1, 3, 4, 4), np.float32)
    answers = [load(file, threads=1)(image)[0, 0] for file in (whole, other)]
    assert answers == [48, 96]


def test_a_whole_file_stays_where_it_is(tmp_path):
    artifact = load_onnx(write(tmp_path / "a.onnx"), SPEC)
    assert self_contained(artifact, tmp_path / "cache").path == artifact.path
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../weights.bin"}, "outside the folder of the model"),
        ({"location": "/etc/hostname"}, "outside the folder of the model"),
        ({"location": "sub/../../weights.bin"}, "outside the folder of the model"),
        ({"location": "C:weights.bin"}, "outside the folder of the model"),
        ({"location": "link.bin"}, "behind the link 'link.bin'"),
        ({"location": "linked/weights.bin"}, "behind the link"),
        ({"location": "nothing.bin"}, "does not exist beside the model"),
        ({"location": "."}, "outside the folder of the model"),
        ({"length": 3 << 40}, "declares 3298534883328 bytes of external data for a tensor of 960"),
        ({"length": 959}, "declares 959 bytes of external data for a tensor of 960"),
        ({"length": "-1"}, "has '-1' for an offset or a length"),
        ({"offset": 8}, "needs bytes 8 to 968 of weights.bin, which has 960"),
        ({"offset": 1 << 62}, "which has 960"),
    ],
)
def test_external_data_is_held_against_the_files_before_it_is_read(tmp_path, entries, message):
    folder = tmp_path / "model"
    folder.mkdir()
    path = beside(folder / "a.onnx", **entries)
    (tmp_path / "weights.bin").write_bytes(bytes(960))
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    (folder / "linked").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ModelError, match=message) as caught:
        load_onnx(path, SPEC)
    assert "\n" not in str(caught.value)


def test_more_than_a_file_can_hold_is_refused_before_it_is_read(tmp_path):
    path = beside(tmp_path / "a.onnx")
    model = onnx.load(path, load_external_data=False)
    weight = model.graph.initializer[0]
    del weight.dims[:]
    weight.dims.extend([3 << 20, 256])
    next(entry for entry in weight.external_data if entry.key == "length").value = str(3 << 30)
    path.write_bytes(model.SerializeToString())
    with (tmp_path / "weights.bin").open("wb") as stream:
        stream.truncate(3 << 30)  # sparse: no disk is used, and it is never read
    with pytest.raises(ModelError, match=r"has 3\.0 GiB with its external data"):
        load_onnx(path, SPEC)


def test_tensors_of_attributes_are_looked_at_too(tmp_path):
    path = write(tmp_path / "a.onnx")
    model = onnx.load(path)
    matrix = model.graph.initializer.pop()
    onnx.external_data_helper.set_external_data(matrix, "../secret.bin", length=960)
    matrix.ClearField("raw_data")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=matrix))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside the folder of the model"):
        load_onnx(path, SPEC)


def test_a_free_batch_that_mixes_images_is_refused(tmp_path):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["c"]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    with pytest.raises(ModelError, match="answer for an image depends on the other images of its batch"):
        load_onnx(write(tmp_path / "a.onnx", nodes=nodes), SPEC)


def test_a_free_batch_in_name_only_runs_one_by_one(tmp_path):
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    path = write(tmp_path / "a.onnx", nodes=[helper.make_node("Flatten", ["x"], ["f"]), nodes[1]])
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 48]), "shape"))
    model.graph.node[0].CopyFrom(nodes[0])
    path.write_bytes(model.SerializeToString())
    assert not load_onnx(path, SPEC).dynamic_batch
