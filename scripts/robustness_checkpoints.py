"""Malformed weights: checkpoints of every kind that PyTorch has written, safetensors, and models that bring their own.

A checkpoint is one that fits a small network, with something odd in it: a tensor that is none, a structure that never
ends, names that are no text, a file of another format, or bytes that were changed.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from robustness_case import Case, generated, mutated, write
from robustness_states import network, odd_state, sound_state
from safetensors.torch import save
from torch import nn

from compress.core.artifact import InputSpec
from compress.device.preflight.__main__ import main as preflight
from compress.formats.onnx.source import load_onnx
from compress.graph.probe import probe_module
from compress.graph.sound import refuse_unsound
from compress.models.checkpoint import load_checkpoint
from compress.models.graph_files import load_graph_file

__all__ = ["checkpoint_case", "checkpoints"]

_SPEC = InputSpec((3, 8, 8))


def _torch_saved(content: object, rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=rng.random() < 0.6)
    return buffer.getvalue()


def _odd_file(rng: random.Random) -> tuple[str, bytes]:
    """Something odd in a file that is whole."""
    kind, content = odd_state(rng)
    try:
        return kind, _torch_saved(content, rng)
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return f"not saved: {kind}", _torch_saved(sound_state(), rng)


_PICKLES: dict[str, Callable[[random.Random], bytes]] = {
    "python 2": lambda r: b"}(U\x04\xff\xfea\x80K\x01u.",
    "no text": lambda r: b"\x80\x02}X\x02\x00\x00\x00\xff\xfeK\x01s.",
    "deep pickle": lambda r: b"\x80\x02" + b"](" * r.choice((500, 100_000)) + b"." * 2,
    "deep lists": lambda r: b"(" * 50_000 + b"l" * 50_000 + b".",
    "memo": lambda r: b"\x80\x02h\xff.",
    "many dictionaries": lambda r: b"\x80\x02" + b"}" * r.choice((1000, 300_000)) + b".",
    "long text": lambda r: b"\x80\x02X\xff\xff\xff\x7f" + b"a" * 100 + b".",
    "long integer": lambda r: b"\x80\x02\x8b\xff\xff\xff\x7f" + b"a" * 100 + b".",
    "huge integer": lambda r: b"\x80\x02\x8b\x00\x00\x10\x00" + b"\x7f" * (1 << 20) + b".",
    "protocol": lambda r: bytes((0x80, r.choice((0, 4, 5, 99)))) + b"}.",
    "protocol 4": lambda r: pickle.dumps({"a": list(range(10))}, protocol=r.choice((0, 1, 3, 4, 5))),
    "global": lambda r: b"cos\nsystem\n(S'true'\ntR.",
    "no storage": lambda r: b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))\x89ccollections\nOrderedDict\n)RtR.",
    "built": lambda r: b"\x80\x02ccollections\nOrderedDict\n)R}X\x01\x00\x00\x00aK\x01sb.",
    "persistent": lambda r: b"\x80\x02X\x03\x00\x00\x00abcQ.",
    "noise": lambda r: r.randbytes(r.choice((1, 10, 1000, 100_000))),
    "text": lambda r: r.choice((b"", b"hello", b"\0" * 100, b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18, b"ustar" * 200)),
}


def _pickled(rng: random.Random) -> tuple[str, bytes]:
    """A pickle, bare or as the program of an archive."""
    kind = rng.choice(sorted(_PICKLES))
    content = _PICKLES[kind](rng)
    if rng.random() < 0.5:
        return kind, content
    return f"archive of {kind}", _edited(_archive(), lambda name, old: content if name.endswith("data.pkl") else old)


@cache
def _archive() -> bytes:
    buffer = io.BytesIO()
    torch.save(sound_state(), buffer)
    return buffer.getvalue()


def _edited(content: bytes, change: Callable[[str, bytes], bytes | None], method: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with its members changed; None leaves one out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            member = change(name, old.read(name))
            if member is not None:
                new.writestr(name, member)
    return buffer.getvalue()


def _damaged_archive(rng: random.Random) -> tuple[str, bytes]:
    """The archive of a checkpoint whose parts do not fit each other."""
    kind = rng.choice(("strides", "sizes", "offset", "no record", "short record", "long record", "deflated", "names"))
    if kind in ("strides", "sizes", "offset"):
        return kind, _edited(_archive(), lambda name, old: _renumbered(old, rng) if name.endswith("data.pkl") else old)
    if kind == "names":
        return kind, _edited(_archive(), lambda name, old: old).replace(b"archive/", b"../../x/")
    record = rng.choice(("/data/0", "/data/1", "/version", "/byteorder", "/data.pkl"))
    lengths: dict[str, Callable[[bytes], bytes | None]] = {
        "no record": lambda old: None,
        "short record": lambda old: old[: len(old) // 2],
        "long record": lambda old: old * 3,
        "deflated": lambda old: old,
    }
    method = zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
    return kind, _edited(_archive(), lambda name, old: lengths[kind](old) if name.endswith(record) else old, method)


def _renumbered(program: bytes, rng: random.Random) -> bytes:
    """A few small integers of a pickle are other ones: offsets, sizes, strides, numbers of elements."""
    places = [place for place in range(len(program) - 1) if program[place : place + 1] == b"K"]
    for place in rng.sample(places, min(len(places), rng.choice((1, 2, 5)))):
        number = rng.choice((0, 1, -1, 2**31, 2**40, 2**62, -(2**40), 7))
        digits = number.to_bytes(9, "little", signed=True)
        program = program[:place] + b"\x8a\x09" + digits + program[place + 2 :]
        places = [other + 9 if other > place else other for other in places]
        break
    return program


def _tarred(rng: random.Random) -> tuple[str, bytes]:
    """The format of PyTorch 0.1.1, whole or not."""
    kind = rng.choice(("tar", "empty tar", "tar of links", "tar outside"))
    members = {
        "sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2),
        "pickle": pickle.dumps({"a": 1}, 2),
        "storages": pickle.dumps(0, 2),
        "tensors": pickle.dumps(0, 2),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in ({} if kind == "empty tar" else members).items():
            entry = tarfile.TarInfo(f"../../{name}" if kind == "tar outside" else name)
            entry.size = len(content)
            if kind == "tar of links" and name == "storages":
                entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0
            tar.addfile(entry, io.BytesIO(content))
    return kind, buffer.getvalue()


_HEADERS: tuple[Callable[[dict[str, object]], object], ...] = (
    lambda h: [],
    lambda h: {},
    lambda h: {**h, "x": 1},
    lambda h: {**h, "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    lambda h: {**h, "x": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}},
    lambda h: {**h, "x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    lambda h: {**h, "x": {"dtype": "F99", "shape": [], "data_offsets": [0, 4]}},
    lambda h: {**h, "x": {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]}},
    lambda h: {**h, "x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
    lambda h: {**h, "__metadata__": {"a": 1}},
    lambda h: {**h, "__metadata__": "x"},
    lambda h: {name: {**value, "dtype": "I32"} for name, value in h.items() if isinstance(value, dict)},
    lambda h: {name: {**value, "dtype": "BF16"} for name, value in h.items() if isinstance(value, dict)},
    lambda h: {name: {**value, "shape": []} for name, value in h.items() if isinstance(value, dict)},
    lambda h: {name: {**value, "data_offsets": [4, 0]} for name, value in h.items() if isinstance(value, dict)},
    lambda h: {f"{name}\ud800\n": value for name, value in h.items()},
)


def _safetensors(rng: random.Random) -> tuple[str, bytes]:
    content = save({name: tensor.contiguous() for name, tensor in sound_state().items()})
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    kind = rng.choice(("header", "length", "bytes", "depth", "values"))
    if kind == "header":
        text = json.dumps(rng.choice(_HEADERS)(header)).encode()
        return kind, struct.pack("<Q", len(text)) + text + data
    if kind == "length":
        return kind, struct.pack("<Q", rng.choice((0, 1, length - 1, 2**32, 2**63, 2**64 - 1))) + content[8:]
    if kind == "depth":
        text = b'{"a":' * 10_000
        return kind, struct.pack("<Q", len(text)) + text
    if kind == "values":
        value = rng.choice((float("nan"), float("inf"), -1.0))
        return kind, save(
            {n: torch.full_like(t, value).contiguous() if t.dim() else t for n, t in sound_state().items()}
        )
    return kind, mutated(content, rng, (b"\0", b"\xff" * 8, b'"', b"{"))


_BYTES = (b"\0", b"\xff" * 8, b"K\x01", b"\x80\x02", b".", b"}", b"PK\x01\x02", b"../", b"\xed\xa0\x80")


def checkpoint_case(rng: random.Random) -> Case:
    """A checkpoint for a network that is there."""
    makers = (_odd_file, _odd_file, _odd_file, _pickled, _damaged_archive, _damaged_archive, _tarred, _safetensors)
    maker = rng.choice(makers)
    kind, content = maker(rng)
    if rng.random() < 0.15:
        kind, content = f"{kind}, changed", mutated(content, rng, _BYTES)
    name = "a.safetensors" if maker is _safetensors else rng.choice(("a.pt", "a.pth", "a.ckpt", "a.bin"))
    key = rng.choice((None, None, None, "state_dict", "model.net", "", "a.b.c", "."))
    strict = rng.random() < 0.5

    def run() -> object:
        module = network()
        print(load_checkpoint(module, Path(name), key=key, strict=strict))
        return _used(module)

    return Case(f"checkpoint {maker.__name__.strip('_')}: {kind}", write({name: content}), run)


def _used(module: nn.Module) -> int:
    refuse_unsound(module)
    probe_module(module, _SPEC)
    return 0


@cache
def _exported() -> bytes:
    program = torch.export.export(
        network(), (torch.zeros(2, *_SPEC.shape),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    )
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


@cache
def _scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(network(), torch.zeros(1, *_SPEC.shape)), buffer)
    return buffer.getvalue()


def _in_record(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """An archive one of whose records is damaged, or holds numbers that no training leaves."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
    chosen, chance = rng.choice(names), rng.random()
    if chance < 0.2:
        return "bytes", mutated(content, rng, _BYTES)
    if chance < 0.5:
        number = struct.pack("<f", rng.choice((float("nan"), float("inf"), -1.0, 3e38)))
        records = [name for name in names if name.split("/")[-1].startswith("weight_") or "/data/" in name]
        chosen = rng.choice(records or names)
        return "numbers", _edited(content, lambda name, old: number * (len(old) // 4) if name == chosen else old)
    if chance < 0.6:
        return "no record", _edited(content, lambda name, old: None if name == chosen else old)
    return "record", _edited(content, lambda name, old: mutated(old, rng, _BYTES) if name == chosen else old)


def _graph_file(rng: random.Random) -> Case:
    content, name = rng.choice(((_exported, "a.pt2"), (_scripted, "a.pt")))
    kind, text = _in_record(content(), rng)
    return Case(f"{name[2:]}: {kind}", write({name: text}), lambda: _used(load_graph_file(Path(name), _SPEC)))


_VALUES = (float("nan"), float("inf"), float("-inf"), -1.0, 3e38)


def _onnx(rng: random.Random) -> Case:
    """Initializers of every type and length, with numbers that no training leaves."""
    kind = rng.choice(("values", "type", "length", "raw", "name", "shape", "bytes"))
    arrays = {"w": np.ones((4, 3, 3, 3), np.float32), "v": np.ones(4, np.float32), "m": np.zeros(4, np.float32)}
    if kind == "values":
        arrays[rng.choice(sorted(arrays))].flat[0] = rng.choice(_VALUES)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("BatchNormalization", ["c", "v", "m", "m", "v"], ["b"]),
            helper.make_node("Flatten", ["b"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *_SPEC.shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 144])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    tensor = rng.choice(graph.initializer)
    if kind == "type":
        tensor.data_type = rng.choice((0, 2, 6, 8, 10, 11, 14, 16, 17, 20, 23, 99))
    elif kind == "length":
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data))] * rng.choice((1, 3))
    elif kind == "raw":
        tensor.float_data.extend(np.frombuffer(tensor.raw_data, np.float32).tolist())
    elif kind == "name":
        tensor.name = rng.choice(("", "x", "v", "\x1b[2J\n", "a" * 100_000))
    elif kind == "shape":
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice((0, -1, 2**40, 2**62, 3))
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    if kind == "bytes":
        content = mutated(content, rng, _BYTES)
    return Case(f"onnx: {kind}", write({"a.onnx": content}), lambda: load_onnx(Path("a.onnx"), _SPEC))


def _tflite(rng: random.Random) -> Case:
    """A file of the other format: told apart wherever it is given."""
    content = b"\x1c\0\0\0TFL3" + rng.randbytes(rng.choice((0, 8, 100, 5000)))
    command = rng.choice((lambda: preflight(["a.tflite"]), lambda: load_graph_file(Path("a.tflite"), _SPEC)))
    return Case("tflite", write({"a.tflite": content}), command)


_DOORS = (checkpoint_case,) * 6 + (_graph_file, _graph_file, _onnx, _tflite)


def checkpoints(count: int, seed: int) -> Iterator[Case]:
    """Files of weights."""
    onnx.defs.onnx_opset_version()
    return generated(count, seed, lambda rng: rng.choice(_DOORS)(rng))
