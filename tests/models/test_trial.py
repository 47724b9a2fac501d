"""The first run of a stranger's graph: what never ends, takes all memory or ends the process is one line."""

from __future__ import annotations

import os
import time
import zipfile

import numpy as np
import onnx
import pytest
import torch
from doubles import Log
from graph_networks import edit_program, edited
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import ConfigError, ModelError
from compress.formats.onnx.importer import onnx_to_module
from compress.models import load_model
from compress.models.configs import FileModel, InputConfig
from compress.models.trial import try_graph
from compress.profile.sources import from_file
from compress.support.quiet import quiet

INPUT = InputConfig(shape=(1, 8, 8), channel_order="gray", mean=(0.5,), std=(0.5,))
GRAY = INPUT.spec()


def load(path, **limits):
    config = FileModel(kind="file", path=path, input=INPUT, **{"time_limit": 20, **limits})
    return load_model(config, trusted=lambda _: False, seed=0, progress=Log(), finetune=None)


def stored(name, values, kind=np.int64):
    return numpy_helper.from_array(np.asarray(values, kind), name)


def write_onnx(path, nodes, tensors=(), *, added="big", shape=("n", 1, 8, 8)):
    """Logits of a linear layer, to which the largest element of the value `added` is added."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        *nodes,
        helper.make_node("ReduceMax", [added], ["most"], keepdims=0),
        helper.make_node("Add", ["logits", "most"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 3])],
        [stored("w", np.eye(64, 3), np.float32), *tensors],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def loop(trips, *, grows: bool = False):
    kind, values = ("Concat", {"axis": 0}) if grows else ("Add", {})
    body = helper.make_graph(
        [helper.make_node("Identity", ["c0"], ["c"]), helper.make_node(kind, ["a", "a"], ["b"], **values)],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c0", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, None),
        ],
    )
    nodes = [helper.make_node("Loop", ["trips", "true", "x"], ["big"], body=body)]
    return nodes, [stored("trips", trips), stored("true", True, np.bool_)]


def test_an_ordinary_file_loads(tmp_path):
    path = write_onnx(tmp_path / "m.onnx", *loop(3), shape=(1, 1, 8, 8))
    assert load(path).path == path


@pytest.mark.parametrize(("grows", "limit"), [(False, "does not end its first run within 1 s"), (True, "memory")])
def test_an_endless_loop_is_ended(tmp_path, grows, limit):
    path = write_onnx(tmp_path / "m.onnx", *loop(2**62, grows=grows))
    with pytest.raises(ModelError, match=limit) as caught:
        load(path, time_limit=1 if not grows else 20, memory_limit=0.5)
    assert "m.onnx" in str(caught.value)
    assert "raise model." in str(caught.value)


BOMBS = {
    "Pad": ([("Pad", ["x", "s"])], [stored("s", [0, 0, 0, 40_000, 0, 0, 40_000, 0])]),
    "Expand": ([("Expand", ["z", "s"])], [stored("z", [1], np.float32), stored("s", [40_000, 40_000])]),
    "ConstantOfShape": ([("ConstantOfShape", ["s"])], [stored("s", [40_000, 40_000])]),
    "Tile": ([("Tile", ["x", "s"])], [stored("s", [1, 1, 5_000, 5_000])]),
    "Resize": ([("Resize", ["x", "", "", "s"])], [stored("s", [1, 1, 40_000, 40_000])]),
    "Range": ([("Range", ["a", "b", "c"])], [stored("a", 0), stored("b", 10**10), stored("c", 1)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_node_that_makes_gigabytes_is_named_before_it_runs(tmp_path, monkeypatch, kind):
    parts, tensors = BOMBS[kind]
    nodes = [helper.make_node(name, inputs, ["big"], name="bomb") for name, inputs in parts]
    if kind == "Range":
        nodes += [helper.make_node("Cast", ["big"], ["cast"], to=TensorProto.FLOAT)]
    path = write_onnx(tmp_path / "m.onnx", nodes, tensors, added="cast" if kind == "Range" else "big")
    expected = "takes more than" if kind == "Range" else rf"m\.onnx: the node 'bomb' \({kind}\) makes a tensor of shape"
    with pytest.raises(ModelError, match=rf"{expected}.* 1 GiB"):
        load(path, memory_limit=1)


def test_sizes_that_are_computed_are_found_by_running_it(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Mul", ["shape", "many"], ["sizes"]),
        helper.make_node("Cast", ["sizes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Exp", ["floats"], ["powers"]),
        helper.make_node("Cast", ["powers"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Expand", ["x", "wide"], ["big"]),
    ]
    path = write_onnx(tmp_path / "m.onnx", nodes, [stored("many", [0, 0, 0, 3])])
    with pytest.raises(ModelError, match=r"takes more than 1 GiB of memory|fails on the declared input"):
        load(path, memory_limit=1)


@pytest.mark.parametrize("kind", ["Expand", "ConstantOfShape", "Tile"])
def test_the_import_computes_no_constant_of_gigabytes(tmp_path, kind):
    """In a branch that nothing reads, which ONNX Runtime leaves out."""
    tensors = [stored("z", [[1.0]], np.float32), stored("s", [40_000, 40_000])]
    inputs = ["s"] if kind == "ConstantOfShape" else ["z", "s"]
    nodes = [
        helper.make_node(kind, inputs, ["large"]),
        helper.make_node("Neg", ["large"], ["unused"], name="bomb"),  # Expand alone is a view in torch
        helper.make_node("Relu", ["x"], ["big"]),
    ]
    path = write_onnx(tmp_path / "m.onnx", nodes, tensors)
    with pytest.raises(ModelError, match=r"in this form: a constant of 6\.0 GiB, more than 1"):
        onnx_to_module(path)


TENSORS = {
    "raw": (lambda t: setattr(t, "raw_data", t.raw_data[:-4]), "stores 764 bytes or numbers, not the 768"),
    "shape": (lambda t: t.dims.__setitem__(0, 2**40), "of its shape"),
    "negative": (lambda t: t.dims.__setitem__(0, -64), "has the shape"),
    "typed": (lambda t: (t.ClearField("raw_data"), t.float_data.extend([1] * 5)), "stores 5 bytes or"),
    "type": (lambda t: setattr(t, "data_type", 99), "elements of type 99"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TENSORS)
def test_stored_tensors_are_what_they_say(tmp_path, kind):
    change, reason = TENSORS[kind]
    path = write_onnx(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["big"])])
    model = onnx.load(path)
    change(model.graph.initializer[0])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=rf"the tensor 'w' of .*m\.onnx.*{reason}"):
        load(path)


class Net(nn.Module):
    __module__ = "__main__"

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "m.pt"
    with quiet():
        torch.jit.script(Net().eval()).save(str(path))
    return path


def with_line(script, path, line):
    """The scripted network with a line of code before its first one."""
    path.write_bytes(script.read_bytes())
    first = b"    conv = self.conv\n"

    def replace(name, content):
        return content.replace(first, f"    {line}\n".encode() + first)

    return edited(path, replace)


def test_an_ordinary_script_loads(script):
    assert load(script).dynamic_batch


SCRIPTS = {
    "endless": ("while True:\n      x = torch.add(x, 1)", "does not end its first run within 1 s"),
    "large": ("z = torch.zeros([40000, 40000])\n    x = torch.add(x, torch.max(z))", "more than 0.5 GiB"),
    "deep": (f"z = {' + '.join(['1'] * 900)}", "nested too deep|cannot be read|ends the process"),
    "long": (f"z = \"{'a' * (17 << 20)}\"", "its code has more than 16 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SCRIPTS)
def test_scripts_that_run_away(script, tmp_path, kind):
    line, reason = SCRIPTS[kind]
    path = with_line(script, tmp_path / "m.pt", line)
    with pytest.raises(ModelError, match=reason):
        load(path, time_limit=1 if kind == "endless" else 5, memory_limit=0.5)


def test_methods_that_call_one_another_twice_each(script, tmp_path):
    """Inlined, they are 2^40 calls."""
    path = with_line(script, tmp_path / "m.pt", "x0 = (self).m0(x, )")
    methods = "".join(
        f"  def m{n}(self: __torch__.Net, x: Tensor) -> Tensor:\n    return (self).m{n + 1}((self).m{n + 1}(x, ), )\n"
        for n in range(40)
    )
    methods += "  def m40(self: __torch__.Net, x: Tensor) -> Tensor:\n    return torch.relu(x)\n"
    edited(path, lambda name, text: text + methods.encode() if name.endswith("code/__torch__.py") else text)
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"does not end|more than|is damaged"):
        load(path, time_limit=3, memory_limit=0.5)
    assert time.monotonic() - started < 60


def test_an_object_of_a_large_number_takes_no_memory(script, tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(script.read_bytes())
    edited(path, lambda name, text: b"\x80\x02Nr\xff\xff\xff\xff." if name.endswith("data.pkl") else text)
    with pytest.raises(ModelError, match=r"damaged or not TorchScript: data\.pkl numbers more objects"):
        load(path, memory_limit=0.5)


def test_sizes_that_take_for_ever_to_simplify(tmp_path):
    path = save_exported_net(tmp_path / "m.pt2")
    terms = " * ".join(f"Max(s{n}, Min(s{n + 1}, s0))" for n in range(30))

    def change(program):
        for value in holders(program):
            value["expr_str"] = terms

    with pytest.raises(ModelError, match=r"does not end|damaged|more than"):
        load(edit_program(path, change), time_limit=4)


def save_exported_net(path):
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(Net().eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shapes), path)
    return path


def holders(value):
    if isinstance(value, dict):
        if "expr_str" in value:
            yield value
        for inner in value.values():
            yield from holders(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from holders(inner)


def test_an_exported_program_that_makes_gigabytes(tmp_path):
    class Bomb(Net):
        def forward(self, x):
            return super().forward(x) + x.flatten()[:1].expand(30_000, 30_000).contiguous().amax()

    torch.export.save(torch.export.export(Bomb().eval(), (torch.zeros(1, 1, 8, 8),)), tmp_path / "m.pt2")
    with pytest.raises(ModelError, match=r"m\.pt2 takes more than 1 GiB of memory for its first run.*memory_limit"):
        load(tmp_path / "m.pt2", memory_limit=1)


def test_archives_are_measured_before_they_are_unpacked(script, tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(script.read_bytes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("m/extra", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(ModelError, match="says that they unpack to 314572800"):
        load(path)


def test_the_profile_tries_its_files_too(tmp_path, script):
    path = write_onnx(tmp_path / "m.onnx", *loop(2**62, grows=True))
    with pytest.raises(ConfigError, match="more than 2 GiB of memory for its first run") as caught:
        from_file(path, (1, 8, 8))
    assert "model.memory_limit" not in str(caught.value)
    with pytest.raises(ModelError, match="memory for its first run"):
        from_file(with_line(script, tmp_path / "m.pt", SCRIPTS["large"][0]), (1, 8, 8))


def test_a_trial_leaves_no_process_and_takes_little_time(tmp_path):
    path = write_onnx(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["big"])])
    try_graph(path, GRAY, None)
    started = os.times()
    try_graph(path, GRAY, None)
    ended = os.times()
    assert ended.children_user + ended.children_system - started.children_user - started.children_system < 2
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def valid_onnx(folder):
    return write_onnx(folder / "valid.onnx", [helper.make_node("Relu", ["x"], ["big"])]).read_bytes()


def changed_bytes_load_or_are_one_line(folder, data):
    content = bytearray(valid_onnx(folder))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "m.onnx"
    path.write_bytes(content)
    try:
        load(path, time_limit=5, memory_limit=0.5)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017


FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(data=st.data())
def test_any_bytes_load_or_are_one_line(tmp_path, data):
    changed_bytes_load_or_are_one_line(tmp_path, data)


@pytest.mark.slow
@settings(FEW, max_examples=300)
@given(data=st.data())
def test_many_bytes_load_or_are_one_line(tmp_path, data):
    changed_bytes_load_or_are_one_line(tmp_path, data)


@pytest.mark.parametrize("name", ["a\0b.onnx", "a\ud800.onnx", "a\0b.pt2", "none.pt2"])
def test_a_path_that_no_file_can_have_is_one_line(tmp_path, name):
    with pytest.raises(ModelError, match="cannot be read: ") as caught:
        try_graph(tmp_path / name, InputSpec((3, 8, 8)), None)
    assert "\n" not in str(caught.value)
