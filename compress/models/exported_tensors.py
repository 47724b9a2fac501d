"""The tensors of a `.pt2` archive, held against their records and against the program that computes with them.

`torch.export.load` takes an empty record for zeros, cuts a longer one, and asks nobody whether a parameter is of the
type that the program was captured with.
"""

from __future__ import annotations

from typing import cast

import torch

from compress.formats.torchscript.records import Damaged, extent
from compress.support.torch_internals import dtype_of

__all__ = ["Json", "check_program_tensors", "check_records"]

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
_Object = dict[str, Json]

_FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})


def check_records(entries: dict[str, _Object], lengths: dict[str, int]) -> None:
    """Each record is as long as the tensors in it reach, and parameters are real numbers.

    Args:
        entries: what the archive says of each tensor, by the tensor's name.
        lengths: bytes of each record.

    Raises:
        Damaged: names the tensor.
    """
    reach: dict[str, tuple[int, str]] = {}
    for name, entry in entries.items():
        record, meta = str(entry["path_name"]), cast(_Object, entry["tensor_meta"])
        dtype = _dtype(meta)
        if entry["is_param"] and dtype not in _FLOATS:
            raise Damaged(f"the parameter {name!r} is {_name(dtype)}, not float32")
        elements = extent(_int(meta["storage_offset"]), _ints(meta["sizes"]), _ints(meta["strides"]))
        reach[record] = max(reach.get(record, (0, name)), (elements * dtype.itemsize, name))
    for record, (expected, name) in reach.items():
        if lengths[record] != expected:
            raise Damaged(f"the record of the tensor {name!r} has {lengths[record]} bytes, not {expected}")


def check_program_tensors(program: _Object, entries: dict[str, _Object]) -> None:
    """Each stored tensor has the type and shape that the program was captured with; raises `Damaged`."""
    module = cast(_Object, program["graph_module"])
    values = cast(dict[str, _Object], cast(_Object, module["graph"])["tensor_values"])
    specs = cast(list[dict[str, _Object]], cast(_Object, module["signature"])["input_specs"])
    for ((kind, spec),) in (one.items() for one in specs):
        entry = entries.get(str(spec.get(f"{kind}_name")))
        if entry is None:
            continue
        stored, wanted = cast(_Object, entry["tensor_meta"]), values[str(cast(_Object, spec["arg"])["name"])]
        if stored["dtype"] != wanted["dtype"] or _ints(stored["sizes"]) != _ints(wanted["sizes"]):
            raise Damaged(
                f"the tensor {spec[f'{kind}_name']!r} is {_name(_dtype(stored))} {_ints(stored['sizes'])} "
                f"but the program takes {_name(_dtype(wanted))} {_ints(wanted['sizes'])}"
            )


def _dtype(meta: _Object) -> torch.dtype:
    return dtype_of(cast(int, meta["dtype"]))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _int(number: Json) -> int:
    return cast(int, cast(_Object, number)["as_int"])


def _ints(numbers: Json) -> list[int]:
    return [_int(number) for number in cast(list[Json], numbers)]
