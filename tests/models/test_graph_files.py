"""`.pt2` and TorchScript: the layers come back, and a stranger's file runs nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from graph_networks import SPEC, edit_program, edited, make_net, save_exported, save_scripted, save_traced
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import ModelError
from compress.graph.probe import probe_module
from compress.models.exported import load_exported
from compress.models.graph_files import load_graph_file


@pytest.fixture(scope="module")
def net():
    return make_net()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, *SPEC.shape)


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
    with pytest.raises(ModelError, match=r"truncated|is not where it says") as caught:
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


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x)
        return y.masked_fill(y < 0, float("-inf")).clamp(max=float("inf")).amax((2, 3))


def test_infinite_constants_are_numbers(tmp_path):
    """PyTorch writes them as the texts `Infinity` and `-Infinity`."""
    torch.manual_seed(0)
    net, images = Masked().eval(), torch.randn(2, *SPEC.shape)
    loaded = load_exported(save_exported(net, tmp_path / "a.pt2"))
    torch.testing.assert_close(loaded(images), net(images), rtol=0, atol=0)


@pytest.mark.parametrize("text", ["inf", "os.system('true')", "-Infinity()", "1e5"])
def test_no_other_text_is_a_number(tmp_path, text):
    def change(program):
        written = json.dumps(program).replace('"-Infinity"', json.dumps(text))
        program.clear()
        program.update(json.loads(written))

    path = edit_program(save_exported(Masked().eval(), tmp_path / "a.pt2"), change)
    with pytest.raises(ModelError, match=r"as_float .*could run code"):
        load_exported(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(b"{", b'{"a": NaN, ', 1), "NaN is not a number in JSON"),
        (lambda text: text.replace(b"{", b'{"graph_module": {}, ', 1), "the key 'graph_module' comes twice"),
        (lambda text: b"[" * 100_000, "nested more than 64 deep"),
        (lambda text: text.replace(b"{", b'{"a": "\\ud800", ', 1), "half of a surrogate pair"),
    ],
)
def test_programs_are_plain_json(net, tmp_path, change, message):
    path = edited(
        save_exported(net, tmp_path / "a.pt2"),
        lambda name, content: change(content) if name.endswith("models/model.json") else content,
    )
    with pytest.raises(ModelError, match=message):
        load_exported(path)
