"""A TorchScript archive, taken apart and put together again so that loading it runs nothing.

The archive is not handed to torch as it is: a new one with only the understood parts is, in memory. Source text is
written anew (`script_code`), pickles name nothing but tensors and the archive's own classes, and every tensor's
record holds exactly the bytes its pickle speaks of: PyTorch itself checks neither that nor a tensor's strides, and
reads beyond the record. Extra files and debugging records, which are pickles too, are left behind.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Sequence
from typing import cast

import torch

from compress.formats.torchscript.records import LARGEST, Damaged, extent
from compress.formats.torchscript.script_code import Forbidden, rewritten

__all__ = ["rebuilt"]

_PICKLES = ("data.pkl", "constants.pkl")
_TENSOR = re.compile(r"(data|constants)/\d+")
_SOURCE = re.compile(r"code/[\w./]+\.py", re.ASCII)
_LONGEST_SOURCE = 16 << 20
"""Bytes of all code: ResNet-152 has 0.3 MB. A hundred times as much memory is needed to read it."""
_PLAIN = frozenset({"version", "byteorder"})
_CLASS = re.compile(r"__torch__(?!\.torch\.classes\b)(\.\w+)+", re.ASCII)
"""A class whose code is in the archive; `torch.classes` are native ones, whose state is rebuilt by native code."""
_BUILDERS = frozenset(
    {
        "collections.OrderedDict",
        "torch.device",
        "torch.jit._pickle.build_boollist",
        "torch.jit._pickle.build_doublelist",
        "torch.jit._pickle.build_intlist",
        "torch.jit._pickle.build_tensorlist",
        "torch.jit._pickle.restore_type_tag",
    }
)
_BYTES = {
    "torch.FloatStorage": 4,
    "torch.DoubleStorage": 8,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8,
    "torch.IntStorage": 4,
    "torch.ShortStorage": 2,
    "torch.CharStorage": 1,
    "torch.ByteStorage": 1,
    "torch.BoolStorage": 1,
    "torch.ComplexFloatStorage": 8,
    "torch.ComplexDoubleStorage": 16,
}


def rebuilt(content: bytes) -> io.BytesIO:
    """A new archive holding only what was checked.

    Raises:
        Forbidden: something in it would do more than compute.
        Damaged: a record is missing, too large, or not as long as the tensors in it.
        RuntimeError: no archive, or a truncated one.
    """
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    names = [name for name in reader.get_all_records() if _is_kept(name)]
    if sum(reader.get_record_size(name) for name in names) > LARGEST:
        raise Damaged(f"it unpacks to more than {LARGEST // 2**30} GiB")
    if sum(reader.get_record_size(name) for name in names if _SOURCE.fullmatch(name)) > _LONGEST_SOURCE:
        raise Damaged(f"its code has more than {_LONGEST_SOURCE >> 20} MiB")
    records = {name: reader.get_record(name) for name in names}
    for name in _PICKLES:
        _Pickle(records, name).check()
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name, record in records.items():
        text = rewritten(record) if _SOURCE.fullmatch(name) else record
        writer.write_record(name, text, len(text))
    writer.write_end_of_file()
    buffer.seek(0)
    return buffer


def _is_kept(name: str) -> bool:
    return name in _PLAIN or name in _PICKLES or bool(_TENSOR.fullmatch(name) or _SOURCE.fullmatch(name))


class _Inert:
    """Stands for every object of the pickle: takes anything, does nothing."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def __hash__(self) -> int:
        return id(self)


class _Storage:
    """The record behind a tensor; `length` in elements."""

    def __init__(self, length: int) -> None:
        self.length = length


class _Pickle(pickle._Unpickler):
    """Reads the pickle with objects that do nothing in the place of those it names.

    In Python, not in C: that one makes an array as long as the largest number that an object is given, and so does
    PyTorch's.
    """

    memo: dict[int, object]

    def __init__(self, records: dict[str, bytes], name: str) -> None:
        if name not in records:
            raise Damaged(f"{name} is missing")
        super().__init__(io.BytesIO(records[name]))
        self._records = records
        self._folder = name.removesuffix(".pkl")

    def check(self) -> None:
        try:
            self.load()
        except (Forbidden, Damaged):
            raise
        except Exception as error:  # a damaged pickle raises anything
            raise Damaged(f"{self._folder}.pkl cannot be read") from error
        if max(self.memo, default=0) > len(self._records[f"{self._folder}.pkl"]):
            raise Damaged(f"{self._folder}.pkl numbers more objects than it has")

    def find_class(self, module: str, name: str) -> object:
        path = f"{module}.{name}"
        if path == "torch._utils._rebuild_tensor_v2":
            return _checked_tensor
        if path in _BYTES:
            return path
        if path in _BUILDERS or _CLASS.fullmatch(path):
            return _Inert
        raise Forbidden(path)

    def persistent_load(self, pid: object) -> _Storage:
        _, kind, key, _, length = cast(Sequence[object], pid)
        itemsize = _BYTES.get(str(kind))
        record = self._records.get(f"{self._folder}/{key}")
        if itemsize is None or record is None or not isinstance(length, int):
            raise Damaged(f"the tensor {self._folder}/{key} is missing")
        if len(record) != length * itemsize:
            raise Damaged(f"the tensor {self._folder}/{key} has {len(record)} bytes, not {length * itemsize}")
        return _Storage(length)


def _checked_tensor(storage: object, offset: int, sizes: Sequence[int], strides: Sequence[int], *_: object) -> _Inert:
    if not isinstance(storage, _Storage) or extent(offset, sizes, strides) > storage.length:
        raise Damaged(f"a tensor of shape {tuple(sizes)} lies outside its record")
    return _Inert()
