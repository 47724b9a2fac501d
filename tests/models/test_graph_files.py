"""`.pt2` and TorchScript: the layers come back, and a stranger's file runs nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.errors import ModelError
from compress.models.exported import load_exported
from compress.models.graph_files import load_graph_file
from compress.models.probe import probe_module
from compress.types import InputSpec

SPEC = InputSpec((3, 16, 16))


class Net(nn.Module):
    """Every kind of layer that is given back, a residual add, and a shared convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding="same", groups=8), nn.BatchNorm2d(8), nn.Hardswish())
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu6(self.bn(self.conv(x)))
        x = x + self.deep(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = Net().eval()
    for norm in (net.bn, net.deep[1]):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return net


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, *SPEC.shape)


def save_exported(net, path, *, dynamic: bool = True) -> Path:
    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    sample = torch.zeros(2 if dynamic else 1, *SPEC.shape)
    torch.export.save(torch.export.export(net, (sample,), dynamic_shapes=shapes), path)
    return path


def save_scripted(net, path) -> Path:
    torch.jit.script(net).save(str(path))
    return path


def save_traced(net, path) -> Path:
    torch.jit.trace(net, torch.zeros(1, *SPEC.shape)).save(str(path))
    return path


@pytest.mark.parametrize(
    "save",
    [save_exported, lambda net, path: save_exported(net, path, dynamic=False), save_scripted, save_traced],
    ids=["pt2", "pt2 static", "scripted", "traced"],
)
def test_layers_and_names_come_back(net, images, tmp_path, save):
    loaded = load_graph_file(save(net, tmp_path / "model.pt2"), SPEC)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), net(images), rtol=0, atol=0)
    assert {name for name, _ in loaded.named_parameters()} == {name for name, _ in net.named_parameters()}
    counters = {name for name in net.state_dict() if name.endswith("num_batches_tracked")}
    assert set(loaded.state_dict()) | counters == set(net.state_dict())
    assert isinstance(loaded.get_submodule("deep.0"), nn.Conv2d)
    assert isinstance(loaded.get_submodule("bn"), nn.BatchNorm2d)
    assert probe_module(loaded, SPEC)
    torch.export.export(loaded.eval(), (images,))


def test_reshape_to_one_image_is_noticed(tmp_path):
    class OneImage(nn.Module):
        def forward(self, x):
            return x.reshape(1, 768)

    loaded = load_graph_file(save_exported(OneImage(), tmp_path / "a.pt2", dynamic=False), SPEC)
    assert not probe_module(loaded, SPEC)


def test_weights_used_twice_stay_shared(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x)).flatten(1)

    net = Twice().eval()
    loaded = load_graph_file(save_exported(net, tmp_path / "a.pt2"), SPEC)
    assert len({id(parameter) for parameter in loaded.parameters()}) == 2
    x = torch.randn(1, *SPEC.shape)
    torch.testing.assert_close(loaded(x), net(x))


# what a stranger may have put into a .pt2


def edited(path: Path, replace) -> Path:
    """Rewrite the archive; `replace(name, content)` returns the new content, or None to drop the member."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            changed = replace(name, content)
            if changed is not None:
                archive.writestr(name, changed)
    return path


def edit_program(path: Path, change) -> Path:
    def replace(name, content):
        if not name.endswith("models/model.json"):
            return content
        program = json.loads(content)
        change(program)
        return json.dumps(program).encode()

    return edited(path, replace)


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_pickled_sample_inputs_are_left_behind(net, images, tmp_path):
    evil = io.BytesIO()
    torch.save({"a": Command(tmp_path / "executed")}, evil, pickle_module=pickle)
    path = edited(
        save_exported(net, tmp_path / "a.pt2"), lambda name, old: evil.getvalue() if "sample_inputs" in name else old
    )
    assert load_exported(path)(images).shape == (3, 5)
    assert not (tmp_path / "executed").exists()


def test_pickled_weights_are_refused(net, tmp_path):
    def replace(name, content):
        return content.replace(b'"use_pickle": false', b'"use_pickle": true') if "weights_config" in name else content

    path = edited(save_exported(net, tmp_path / "a.pt2"), replace)
    with pytest.raises(ModelError, match=r"holds the pickled or unknown object .*never loaded"):
        load_exported(path)


def test_opaque_constants_are_refused(net, tmp_path):
    payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}

    def replace(name, content):
        return json.dumps({"config": {"c": payload}}).encode() if "constants_config" in name else content

    with pytest.raises(ModelError, match="pickled or unknown object 'c'"):
        load_exported(edited(save_exported(net, tmp_path / "a.pt2"), replace))


def _operator(program):
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def _file_operator(program):
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"


def _memory_operator(program):
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.set_.source_Storage"


def _process_operator(program):
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.manual_seed.default"


def _size(program):
    meta = next(iter(program["graph_module"]["graph"]["tensor_values"].values()))
    code = "__import__('os').mkdir('executed')"
    meta["sizes"][0] = {"as_expr": {"expr_str": code, "hint": {"as_int": 2}}}


def _name(program):
    graph = program["graph_module"]["graph"]
    graph["nodes"][0]["name"] = "x = __import__('os').mkdir('executed')"


def _tree(program):
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    spec = {"type": "builtins.dict", "context": '{"__enum__": 1, "fqn": "os:sep", "name": "x"}', "children_spec": []}
    signature["in_spec"] = json.dumps([1, spec])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_operator, "target 'torch.os.system'"),
        (_file_operator, "target 'torch.ops.aten.from_file.default'"),
        (_memory_operator, "target 'torch.ops.aten.set_.source_Storage'"),
        (_process_operator, "target 'torch.ops.aten.manual_seed.default'"),
        (_size, "expr_str"),
        (_name, "name"),
        (_tree, "argument type"),
    ],
)
def test_strings_that_would_be_evaluated_are_refused(net, tmp_path, monkeypatch, change, what):
    monkeypatch.chdir(tmp_path)
    path = edit_program(save_exported(net, tmp_path / "a.pt2"), change)
    with pytest.raises(ModelError, match=rf"holds .*{what}.*which could run code and is never loaded"):
        load_exported(path)
    assert not (tmp_path / "executed").exists()


def test_guards_are_left_behind(net, images, tmp_path):
    def change(program):
        program["guards_code"] = ["__import__('os').mkdir('executed')"]

    loaded = load_exported(edit_program(save_exported(net, tmp_path / "a.pt2"), change))
    assert loaded(images).shape == (3, 5)


def test_native_libraries_are_left_behind(net, images, tmp_path):
    path = save_exported(net, tmp_path / "a.pt2")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data/aotinductor/model/evil.so", b"\x7fELF")
    assert load_exported(path)(images).shape == (3, 5)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("save", [save_exported, save_scripted], ids=["pt2", "torchscript"])
def test_truncated(net, tmp_path, save, share):
    path = save(net, tmp_path / "a.pt2")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ModelError, match=r"is truncated or not \.pt2") as caught:
        load_graph_file(path, SPEC)
    assert "\n" not in str(caught.value)


def test_damaged_inside(net, tmp_path):
    path = edited(save_exported(net, tmp_path / "a.pt2"), lambda name, old: None if "weights_config" in name else old)
    with pytest.raises(ModelError, match="is damaged or of an incompatible version"):
        load_graph_file(path, SPEC)


def test_other_files(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        load_graph_file(tmp_path / "absent.pt2", SPEC)
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"is a checkpoint, not a complete model \| fix: model=factory"):
        load_graph_file(tmp_path / "a.pt", SPEC)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a/version", "3")
    with pytest.raises(ModelError, match=r"neither \.pt2, TorchScript nor \.onnx"):
        load_graph_file(tmp_path / "b.zip", SPEC)


# TorchScript that does more than computing


class Saves(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "executed")
        return x.flatten(1)


class RunsWhenLoaded(nn.Module):
    def __init__(self):
        super().__init__()
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> int:
        return 1

    @torch.jit.export
    def __setstate__(self, state: int):
        self.training = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


@pytest.mark.parametrize(("module", "what"), [(Saves, "torch.save"), (RunsWhenLoaded, "__setstate__")])
def test_torchscript_with_side_effects_is_refused(tmp_path, monkeypatch, module, what):
    monkeypatch.chdir(tmp_path)
    path = save_scripted(module(), tmp_path / "a.ts")
    with pytest.raises(ModelError, match=f"uses '{what}', which is more than computing"):
        load_graph_file(path, SPEC)
    assert not (tmp_path / "executed").exists()


def test_torchscript_with_the_wrong_shape(net, tmp_path):
    path = save_scripted(net, tmp_path / "a.ts")
    with pytest.raises(ModelError, match=r"cannot be converted for \(1, 16, 16\)"):
        load_graph_file(path, InputSpec((1, 16, 16), "gray", (0.5,), (0.5,)))


@pytest.mark.parametrize(
    "name",
    [
        'x", __import__("os").mkdir("executed"), "',
        "x\n    __import__('os').mkdir('executed')",
        "forward.__globals__.x",
        "__class__.x",
        "__\uff43lass__.x",
        "fc..weight",
        "a\\",
    ],
)
def test_names_of_tensors_that_could_become_code(net, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)

    def change(program):
        for spec in program["graph_module"]["signature"]["input_specs"]:
            if spec.get("parameter", {}).get("parameter_name") == "fc.weight":
                spec["parameter"]["parameter_name"] = name

    path = edit_program(save_exported(net, tmp_path / "a.pt2"), change)
    with pytest.raises(ModelError, match=r"holds parameter_name .*which could run code"):
        load_exported(path)
    assert not (tmp_path / "executed").exists()


# damage that torch itself takes for weights


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
