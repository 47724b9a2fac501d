"""TorchScript: what a stranger's file could do, by every way known to us, and what it may not be damaged into."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import ModelError
from compress.formats.torchscript.script_code import Forbidden, rewritten
from compress.formats.torchscript.script_file import load_script
from compress.models.graph_files import load_graph_file
from compress.profile.sources import from_file
from compress.support.quiet import quiet

SPEC = InputSpec((3, 8, 8))
WRITES = "torch.from_file('executed', True, 4)"
"""Makes a file of 16 bytes."""


class Net(nn.Module):
    __module__ = "__main__"  # TorchScript names the file of its code after this

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor, again: int = 1) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3))) * again


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> dict[str, bytes]:
    """The members of a harmless file."""
    path = tmp_path_factory.mktemp("script") / "m.pt"
    torch.manual_seed(0)
    with quiet():
        torch.jit.script(Net().eval()).save(str(path))
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def write(members: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def forged(archive: dict[str, bytes], old: str, new: str, *, member: str = "m/code/__torch__.py") -> dict[str, bytes]:
    assert old.encode() in archive[member]
    return archive | {member: archive[member].replace(old.encode(), new.encode())}


RETURN = "  _1 = torch.mul("


def line(code: str) -> tuple[str, str]:
    return RETURN, f"  {code}\n  {RETURN}"


OWN, HOOKED = "__torch__.Net", "Tuple[Tensor, int], b: Tensor"
EVASIONS = {
    "plain": line(f"w = {WRITES}"),
    "blank": line("w = torch. from_file('executed', True, 4)"),
    "tab": line("w = torch\t.\tfrom_file('executed', True, 4)"),
    "comment": line("w = (torch. # a comment\n      from_file)('executed', True, 4)"),
    "line break": line("w = torch.\\\n      from_file('executed', True, 4)"),
    "carriage return": line("# \r  w = torch.from_file('executed', True, 4)"),
    "qualified": line("w = ops.aten.from_file('executed', True, 4)"),
    "qualified blank": line("w = ops. aten . from_file('executed', True, 4)"),
    "alias": line("t = torch\n    w = t.from_file('executed', True, 4)"),
    "getattr": line("w = getattr(torch, 'from_file')('executed', True, 4)"),
    "ops alias": line("o = ops.aten\n    w = o.from_file('executed', True, 4)"),
    "control flow": line(f"if torch.eq(again, 1):\n      w = {WRITES}\n    else:\n      pass"),
    "loop": line(f"for i in range(1):\n      w = {WRITES}"),
    "lambda": line(f"f = lambda: {WRITES}\n    w = f()"),
    "closure": line(f"def inner() -> Tensor:\n      return {WRITES}\n    w = fork(inner)"),
    "default": ("again: int=1", f"again: Tensor={WRITES}"),
    "default blank": ("again: int=1", "again: Tensor=torch. from_file('executed', True, 4)"),
    "default in list": ("again: int=1", f"again: List[Tensor]=[{WRITES}]"),
    "constant": ("  training : bool", f"  training : bool\n  q : Final[Tensor] = {WRITES}"),
    "unused method": ("  def forward(", f"  def exported(self: {OWN}) -> Tensor:\n    return {WRITES}\n  def forward("),
    "hook": ("  def forward(", f"  def hook(self: {OWN}, a: {HOOKED}) -> Tensor:\n    return {WRITES}\n  def forward("),
    "function": ("class Net(Module)", f"def outside() -> Tensor:\n  return {WRITES}\nclass Net(Module)"),
    "module level": ("class Net(Module)", f"w = {WRITES}\nclass Net(Module)"),
    "base class": ("class Net(Module)", f"class Net({WRITES})"),
    "decorator": ("class Net(Module)", f"@{WRITES}\nclass Net(Module)"),
    "f-string": line("w = f\"{torch.from_file('executed', True, 4)}\""),
    "save": line("torch. save(x, 'executed')"),
    "random state": line("torch.manual_seed(0)"),
    "gradients": line("torch.set_grad_enabled(True)"),
    "memory": line("w = x.set_(x)"),
    "swapped data": line("torch.set_data(x, x)"),
    "unchecked view": line("w = torch._sparse_coo_tensor_unsafe(x, x, [9])"),
    "unknown namespace": line("w = ops.quantized.relu6(x)"),
    "print": line("print('executed')"),
    "native class": ("  training : bool", "  training : bool\n  q : __torch__.torch.classes.a.B"),
    "state": ("  def forward(", f"  def __setstate__(self: {OWN}, state: int):\n    w = {WRITES}\n  def forward("),
    "with": line("with torch.no_grad():\n      w = x"),
    "not ASCII": line("\u0442orch = x"),
    "other class": ("class Net(Module)", f"class E(Enum):\n  a = {WRITES}\nclass Net(Module)"),
}  # fmt: skip


@pytest.mark.parametrize("name", EVASIONS)
def test_what_does_more_than_computing_is_refused_before_it_runs(archive, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = write(forged(archive, *EVASIONS[name]), tmp_path / "m.pt")
    with pytest.raises(ModelError, match="which is more than computing and is never loaded") as caught:
        load_graph_file(path, SPEC)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt"]


def test_operators_of_submodules_count_too(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    member = next(name for name in archive if "/linear" in name and name.endswith(".py"))
    members = forged(archive, "return torch.linear", f"z = {WRITES}\n    return torch.linear", member=member)
    with pytest.raises(ModelError, match=r"uses 'torch\.from_file'"):
        load_script(write(members, tmp_path / "m.pt"))
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt"]


def test_the_profile_has_no_door_of_its_own(archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(forged(archive, *EVASIONS["default blank"]), tmp_path / "m.pt")
    with pytest.raises(ModelError, match="never loaded"):
        from_file(path, (3, 8, 8))
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt"]


def test_torch_itself_runs_default_arguments_and_constants(archive, tmp_path, monkeypatch):
    """Why the text is read before loading: if this fails, PyTorch has changed for the better."""
    monkeypatch.chdir(tmp_path)
    path = write(forged(archive, *EVASIONS["default"]), tmp_path / "m.pt")
    with quiet():
        torch.jit.load(str(path))
    assert (tmp_path / "executed").exists()


def test_pickles_name_tensors_and_own_classes_only(archive, tmp_path):
    native = archive["m/data.pkl"].replace(b"__torch__\nNet", b"__torch__.torch\nclasses.profiling.SourceStats")
    assert native != archive["m/data.pkl"]
    with pytest.raises(ModelError, match=r"uses '__torch__\.torch\.classes"):
        load_script(write(archive | {"m/data.pkl": native}, tmp_path / "m.pt"))
    with pytest.raises(ModelError, match=r"uses 'posix.system'"):
        load_script(write(archive | {"m/constants.pkl": pickle.dumps(os.system, protocol=2)}, tmp_path / "m.pt"))


def test_what_is_not_understood_is_left_behind(archive, tmp_path):
    members = archive | {
        "m/code/__torch__.py.debug_pkl": b"garbage",
        "m/extra/x.so": b"\x7fELF",
        "m/bytecode.pkl": b"x",
    }
    assert load_script(write(members, tmp_path / "m.pt"))(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


@pytest.mark.parametrize("length", [0, 4, 15, 20])
def test_records_of_another_length_are_damage(archive, tmp_path, length):
    name = next(name for name, content in archive.items() if "/data/" in name and len(content) == 16)
    content = (archive[name] * 2)[:length]
    with pytest.raises(ModelError, match=rf"the tensor data/\d+ has {length} bytes, not 16"):
        load_script(write(archive | {name: content}, tmp_path / "m.pt"))


def test_tensors_beyond_their_record_are_damage(tmp_path):
    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("w", torch.zeros(77)[:70].view(10, 7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :7] @ self.w.t()

    with quiet():
        torch.jit.script(Strided().eval()).save(str(tmp_path / "m.pt"))
    with zipfile.ZipFile(tmp_path / "m.pt") as file:
        members = {name: file.read(name) for name in file.namelist()}
    load_script(tmp_path / "m.pt")
    stride = members["m/data.pkl"].replace(b"K\x07K\x01", b"K\x0bK\x01")
    assert stride != members["m/data.pkl"]
    with pytest.raises(ModelError, match=r"a tensor of shape \(10, 7\) lies outside its record"):
        load_script(write(members | {"m/data.pkl": stride}, tmp_path / "m.pt"))


def test_archives_that_unpack_to_too_much_are_refused(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("compress.formats.torchscript.script_archive.LARGEST", 100_000)
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in (archive | {"m/data/99": bytes(1_000_000)}).items():
            file.writestr(name, content)
    assert path.stat().st_size < 100_000
    with pytest.raises(ModelError, match="unpacks to more than"):
        load_script(path)


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet=st.characters(max_codepoint=255)))
def test_strings_keep_their_bytes(text):
    literal = '"' + "".join(f"\\{ord(letter):03o}" for letter in text) + '"'
    source = f"def f(x: str={literal}) -> str:\n  return x\n"
    assert literal.removeprefix('"') in _octal(rewritten(source.encode())) or not text


def _octal(source: bytes) -> str:
    """The first string literal of the source, every character an escape."""
    literal = source.decode().partition("=")[2].rpartition(")")[0]
    value = eval(literal)  # our own output: one string literal
    return "".join(f"\\{ord(letter):03o}" for letter in value) + '"'


def test_control_flow_names_and_numbers_survive(tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleDict({"a/b": nn.Linear(192, 3), "0": nn.Linear(192, 3)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            total = torch.zeros(1) - float("inf")
            for name, layer in self.layers.items():
                if name == "a/b":
                    total = torch.maximum(total, layer(x.flatten(1)))
                else:
                    total = torch.maximum(total, 1e-5 * layer(x.flatten(1)).clamp(max=0.1))
            return total

    net = Odd().eval()
    with quiet():
        torch.jit.script(net).save(str(tmp_path / "m.pt"))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(load_script(tmp_path / "m.pt")(x), net(x), rtol=0, atol=0)


def test_code_too_deep_to_read_is_one_line():
    with pytest.raises(Forbidden, match="code that cannot be read"):
        rewritten(b"def f() -> int:\n  return " + b"(" * 50_000 + b")" * 50_000 + b"\n")
