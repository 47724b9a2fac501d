"""Malformed TorchScript and `.pt2` files and checkpoints: endless programs, bombs, and archives that lie."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from robustness_case import Case, generated, mutated, write
from robustness_graphs import loaded
from robustness_zip import archived, archived_wrongly
from torch import nn

import compress.models.exported
import compress.models.torchscript  # noqa: F401
from compress.models.checkpoint import read_state_dict
from compress.support.quiet import quiet

__all__ = ["programs"]


class _Net(nn.Module):
    __module__ = "__main__"  # TorchScript names the file of its code after this

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv(x)).mean((2, 3))
        return self.fc(y)


def _members(save: Callable[[io.BytesIO], None]) -> dict[str, bytes]:
    buffer = io.BytesIO()
    with quiet():  # TorchScript is deprecated
        save(buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@cache
def _scripted() -> dict[str, bytes]:
    torch.set_num_threads(1)
    return _members(lambda buffer: torch.jit.save(torch.jit.script(_Net().eval()), buffer))


@cache
def _exported() -> dict[str, bytes]:
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(_Net().eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=shapes)
    return _members(lambda buffer: torch.export.save(program, buffer))


@cache
def _checkpoint() -> dict[str, bytes]:
    return _members(lambda buffer: torch.save(_Net().state_dict(), buffer))


def _big(rng: random.Random) -> int:
    return rng.choice((40_000, 100_000, 2**31, 2**40, 2**62, 10**30, -1, 0))


_LINES: dict[str, Callable[[random.Random], str]] = {
    "endless": lambda r: "while True:\n      z = torch.relu(x)",
    "counting": lambda r: f"i = 0\n    while torch.lt(i, {_big(r)}):\n      i = torch.add(i, 1)",
    "range": lambda r: f"for i in range({_big(r)}):\n      z = torch.relu(x)",
    "growing": lambda r: "z = x\n    while True:\n      z = torch.cat([z, z])",
    "list": lambda r: "z = [x]\n    while True:\n      z = torch.append(z, x)",
    "text": lambda r: 'z = "a"\n    while True:\n      z = torch.add(z, z)',
    "zeros": lambda r: f"z = torch.zeros([{_big(r)}, {_big(r)}])",
    "ones used": lambda r: f"x0 = torch.ones([{_big(r)}, 40000])\n    x = torch.add(x, torch.max(x0))",
    "expand": lambda r: f"z = torch.contiguous(torch.expand(x, [{_big(r)}, 1, 8, 8]))",
    "repeat": lambda r: f"z = torch.repeat(x, [{_big(r)}, {_big(r)}, 1, 1])",
    "arange": lambda r: f"z = torch.arange({_big(r)})",
    "eye": lambda r: f"z = torch.eye({_big(r)})",
    "pad": lambda r: f"z = torch.constant_pad_nd(x, [0, {_big(r)}, 0, 9000], 0)",
    "strided": lambda r: f"z = torch.contiguous(torch.as_strided(x, [{_big(r)}], [0]))",
    "outside": lambda r: f"z = torch.as_strided(x, [10], [{_big(r)}], {_big(r)})",
    "upsample": lambda r: f"z = torch.upsample_nearest2d(x, [{_big(r)}, 40000])",
    "one hot": lambda r: f"z = torch.one_hot(torch.zeros([1], dtype=4), {_big(r)})",
    "power": lambda r: f"z = torch.pow(9, {_big(r)})",
    "shift": lambda r: f"z = torch.__lshift__(1, {_big(r)})",
    "brackets": lambda r: (lambda n: f"z = {'(' * n}x{')' * n}")(r.choice((50, 190, 5000, 200_000))),
    "negations": lambda r: f"z = {'-' * r.choice((50, 900, 5000, 200_000))}1",
    "sum": lambda r: f"z = {' + '.join(['1'] * r.choice((50, 900, 5000, 100_000)))}",
    "calls": lambda r: (lambda n: f"z = {'torch.relu(' * n}x{')' * n}")(r.choice((50, 190, 900, 20_000))),
    "lists": lambda r: (lambda n: f"z = {'[' * n}{']' * n}")(r.choice((50, 190, 5000))),
    "attributes": lambda r: f"z = self{'.conv' * r.choice((50, 900, 20_000))}",
    "blocks": lambda r: "if True:\n" + "".join(
        f"{' ' * (level + 6)}if True:\n" for level in range(r.choice((5, 90, 3000)))
    ) + "z = x",
    "elif": lambda r: "if False:\n      z = x\n" + "    elif False:\n      z = x\n" * r.choice((5, 900, 20_000)),
    "digits": lambda r: f"z = {'9' * r.choice((30, 4000, 5000, 100_000))}",
    "long text": lambda r: f"z = \"{'a' * r.choice((1000, 20_000_000))}\"",
    "many": lambda r: "\n    ".join(f"z{n} = torch.relu(x)" for n in range(r.choice((100, 20_000)))),
    "recursion": lambda r: "z = (self).forward(x)",
    "division": lambda r: "z = torch.floordiv(1, 0)",
    "exception": lambda r: 'ops.prim.RaiseException("x")',
    "index": lambda r: f"z = [1][{_big(r)}]",
}  # fmt: skip

_BEFORE = b"    conv = self.conv\n"


def _code(rng: random.Random) -> tuple[str, bytes]:
    """Something in the code of the forward method."""
    members = dict(_scripted())
    name = next(name for name in members if name.endswith("code/__torch__.py"))
    kind = rng.choice(sorted(_LINES))
    assert _BEFORE in members[name]
    members[name] = members[name].replace(_BEFORE, f"    {_LINES[kind](rng)}\n".encode() + _BEFORE)
    return f"script {kind}", archived(members)


def _called(rng: random.Random) -> tuple[str, bytes]:
    """Methods that call one another twice each."""
    members = dict(_scripted())
    name = next(name for name in members if name.endswith("code/__torch__.py"))
    levels = rng.choice((3, 18, 40, 300))
    text = "".join(
        f"  def m{n}(self: __torch__._Net, x: Tensor) -> Tensor:\n    return (self).m{n + 1}((self).m{n + 1}(x, ), )\n"
        for n in range(levels)
    )
    text += f"  def m{levels}(self: __torch__._Net, x: Tensor) -> Tensor:\n    return torch.relu(x)\n"
    text = members[name].decode() + text
    members[name] = text.replace(_BEFORE.decode(), f"    x0 = (self).m0(x, )\n{_BEFORE.decode()}").encode()
    return "script calls", archived(members)


def _script_bytes(rng: random.Random) -> tuple[str, bytes]:
    members = dict(_scripted())
    name = rng.choice(sorted(members))
    tokens = (b"torch.", b"(", b"\n", b"while True:\n", b"\x80\x02", b"R", b"(", b"\xff" * 4)
    members[name] = mutated(members[name] or b" ", rng, tokens)
    return f"script mutated {name.rpartition('/')[2]}", archived(members)


def _pickled(rng: random.Random) -> tuple[str, bytes]:
    """Programs of pickle: numbers of memo entries, lengths and depths that take memory."""
    kind = rng.choice(("memo", "length", "depth", "doubling", "text", "reduce", "recursive"))
    many = rng.choice((1000, 100_000))
    start = b"\x80\x02"
    content = {
        "memo": start + b"Nr" + struct.pack("<L", rng.choice((10**6, 2**31, 2**32 - 1))) + b".",
        "length": b"\x80\x05" + rng.choice((b"\x96", b"\x8e", b"\x8d")) + struct.pack("<Q", rng.choice((2**33, 2**62))),
        "depth": start + b"(" * many + b"t" * many + b".",
        "doubling": start + b"](" + b"".join(b"q%c](h%ch%ce" % (n, n, n) for n in range(1, 60)) + b"e.",
        "text": start + b"I" + b"9" * many + b"\n.",
        "reduce": start + b"ccollections\nOrderedDict\n(tR" * min(many, 3000) + b".",
        "recursive": start + b"]q\0h\0a.",
    }[kind]
    which = rng.choice(("scripted", "checkpoint"))
    members = dict(_scripted() if which == "scripted" else _checkpoint())
    name = next(name for name in members if name.endswith("/data.pkl"))
    members[name] = content
    return f"{'script' if which == 'scripted' else 'checkpoint'} pickle {kind}", archived(members)


_SYMBOLS = (
    "Max(s0, s1)",
    "Max(" * 30 + "s0" + ", s1)" * 30,
    "(s0 << 99999999999)",
    "s0 ** 999999999",
    "Mod(s0, 0)",
    "FloorDiv(s0, 0)",
    "Mul(" * 200 + "s0" + ", 2)" * 200,
    " + ".join(f"Max(s{n}, s{n + 1})" for n in range(12)),
    " * ".join(f"Max(s{n}, Min(s{n + 1}, s0))" for n in range(30)),
    " * ".join("(s0 + s1 + s2 + s3)" for _ in range(40)),
    "9" * 18 + " * s0" * 40,
    "(" * 5000 + "s0" + ")" * 5000,
    "-" * 5000 + "s0",
    "Symbol('s0', integer=True)",
    "",
    "s0 <= s1",
    "s" + "0" * 6,
)


def _program(rng: random.Random) -> tuple[str, bytes]:
    """A value in the description of a program changed."""
    members = dict(_exported())
    name = next(name for name in members if name.endswith("models/model.json"))
    program = json.loads(members[name])
    kind = rng.choice(("symbol", "symbol", "integer", "integer", "leaf", "leaf", "depth", "bytes"))
    if kind == "symbol":
        for holder in _holders(program, "expr_str"):
            holder["expr_str"] = rng.choice(_SYMBOLS)
    elif kind in ("integer", "leaf"):
        places = [(holder, key) for holder, key, value in _leaves(program) if kind == "leaf" or type(value) is int]
        for holder, key in rng.sample(places, rng.choice((1, 2))):
            holder[key] = rng.choice((_big(rng), 0, 7, None, "x", [], {}, "torch.ops.aten.relu.default", 1e999, True))
    content = json.dumps(program).encode()
    if kind == "depth":
        content = rng.choice((b"[", b'{"a":')) * rng.choice((500, 100_000))
    elif kind == "bytes":
        content = mutated(content, rng, (b"{", b"}", b"[", b'"', b"9" * 5000, b"NaN", b"null", b"\\ud800"))
    members[name] = content
    return f"pt2 {kind}", archived(members)


def _holders(value: object, key: str) -> Iterator[dict[str, object]]:
    if isinstance(value, dict):
        if key in value:
            yield value
        for inner in value.values():
            yield from _holders(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _holders(inner, key)


def _leaves(value: object) -> Iterator[tuple[object, object, object]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        if isinstance(inner, dict | list) and inner:
            yield from _leaves(inner)
        else:
            yield value, key, inner


def _made(rng: random.Random) -> tuple[str, bytes]:
    """A program that torch exported and that makes a large tensor, or many."""
    size, kind = rng.choice((3000, 60_000, 200_000)), rng.choice(("zeros", "expand", "doubling", "products"))

    class Bomb(_Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if kind == "zeros":
                big = torch.zeros(size, size)
            elif kind == "expand":
                big = x.flatten()[:1].expand(size, size).contiguous()
            elif kind == "products":
                big = x.flatten()[:1].expand(9000, 9000).contiguous()
                for _ in range(size // 3000):
                    big = torch.relu(big @ big)
            else:
                big = x
                for _ in range(40):
                    big = torch.cat([big, big])
            return super().forward(x) + big.amax()

    program = torch.export.export(Bomb().eval(), (torch.zeros(1, 1, 8, 8),))  # computes with shapes alone
    return f"pt2 {kind}", archived(_members(lambda buffer: torch.export.save(program, buffer)))


def _zipped(rng: random.Random) -> tuple[str, bytes]:
    kind, source = rng.choice((("script", _scripted), ("pt2", _exported), ("checkpoint", _checkpoint)))
    inner, content = archived_wrongly(source(), rng)
    return f"{kind} zip {inner}", content


def _other(rng: random.Random) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    torch.save(_Net().state_dict(), buffer, _use_new_zipfile_serialization=False)
    old = mutated(buffer.getvalue(), rng, (b"\x80\x02", b"\xff" * 8, b"q\0", b"ctorch\n"))
    return "checkpoint other", rng.choice((old, old, b"", rng.randbytes(500), pickle.dumps([1]), b"TFL3" * 9))


_KINDS = (_code, _code, _code, _called, _script_bytes, _pickled, _program, _program, _made, _zipped, _zipped, _other)


def _one(rng: random.Random) -> Case:
    kind, content = rng.choice(_KINDS)(rng)
    if kind.startswith("checkpoint"):
        return Case(kind, write({"m.pt": content}), lambda: len(read_state_dict(Path("m.pt"))) * 0)
    return Case(kind, write({"m.pt": content}), loaded("m.pt"))


def programs(count: int, seed: int) -> Iterator[Case]:
    """Files of PyTorch."""
    return generated(count, seed, _one)
