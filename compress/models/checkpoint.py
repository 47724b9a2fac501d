"""Checkpoints: read without running code, unwrap, fit into a module."""

from __future__ import annotations

import pickle
import re
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from compress.core.errors import ModelError, nearest
from compress.formats.torchscript.records import LARGEST
from compress.models.names import renamed
from compress.support.archives import UnsafeArchive, checked_members
from compress.support.quiet import first_line
from compress.support.reading import open_regular, unreadable

__all__ = ["load_checkpoint", "read_state_dict"]

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
_AVERAGES = ("state_dict_ema", "ema_state_dict", "model_ema", "ema", "params_ema")
"""Moving averages over training, as timm and others keep beside the last weights: they are what was validated."""
_ENOUGH = 0.95
"""Share of the model's values that a checkpoint must fill: below it, what is measured is mostly random."""
_MOST_WRAPPERS = 8
"""In one another; trainers' checkpoints have 2, and one that holds itself has no end."""
_FORBIDDEN_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_SHOWN = 3
_FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})
_INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


def load_checkpoint(
    module: nn.Module, path: Path, *, key: str | None, strict: bool, allow_random: Sequence[str] = ()
) -> str:
    """Fill `module` from a checkpoint; how much of it was filled and from what, as a sentence.

    Args:
        key: where the state dict lies in the checkpoint, dots for nesting; None finds it.
        strict: refuse missing and unexpected keys; a wrong shape or type is always refused.
        allow_random: patterns (`head.*`) of tensors that may be missing.

    Raises:
        ModelError: unreadable, unsafe, the keys, shapes or types do not fit, or too little is filled; shows a few.
    """
    expected = module.state_dict()
    state, source = _read(path, key)
    given = {name: _only(name, originals, state, path) for name, originals in renamed(state, expected).items()}
    required = {name: tensor for name, tensor in expected.items() if not _may_be_missing(name, allow_random)}
    missing = [name for name in required if name not in given]
    unexpected = [name for name in given if name not in expected]
    problems = _mismatches(expected, given)
    if strict:
        problems += [("missing", missing), ("unexpected", unexpected)]
    text = "; ".join(f"{len(names)} {problem}: {_few(names)}" for problem, names in problems if names)
    if text:
        raise ModelError(f"checkpoint {path} does not fit the model: {text}", fix=_advice(problems, missing))
    if not expected.keys() & given.keys():
        raise ModelError(f"checkpoint {path} shares no key with the model", fix="check model.factory and model.key")
    if _values(required, given) < _ENOUGH * _values(required, required):
        share = _values(required, given) / _values(required, required)
        raise ModelError(
            f"checkpoint {path} fills {100 * share:.1f} % of the model's values; random would stay {_few(missing)}",
            fix=f"check model.factory and model.key, or model.allow_random=[{_patterns(missing)}] where that is meant",
        )
    _load(module, given, path)
    filled = sum(name in given for name in expected)
    return f"{filled} of {len(expected)} tensors are from {path.name}{f' ({source})' if source else ''}" + (
        f"; as the factory made them: {_few([name for name in expected if name not in given])}"
        if filled < len(expected)
        else ""
    )


def _only(name: str, originals: Sequence[str], state: Mapping[str, torch.Tensor], path: Path) -> torch.Tensor:
    """The tensor of a name; raises `ModelError` where the checkpoint has two that differ."""
    first, *others = originals
    if not all(_equal(state[first], state[other]) for other in others):
        raise ModelError(
            f"checkpoint {path} has two different tensors for {name}: {_few(list(originals))}",
            fix="save the state dict of one network, or model.key=<where one of them lies>",
        )
    return state[first]


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    try:
        return torch.equal(one, other)
    except RuntimeError:  # of kinds that are not compared
        return one is other


def _load(module: nn.Module, given: Mapping[str, torch.Tensor], path: Path) -> None:
    """Fill `module` from tensors that are known to fit.

    They come with the module's own `_metadata`, the version that each part writes: torchvision's MNASNet takes none
    without, and shapes that fit are of the version that wrote them.
    """
    state = OrderedDict(given)
    state._metadata = module.state_dict()._metadata  # type: ignore[attr-defined]
    try:
        module.load_state_dict(state, strict=False)
    except Exception as error:  # modules override how they load, and torch's own errors share no class
        raise ModelError(
            f"checkpoint {path} does not load into {type(module).__name__}: {first_line(error)}",
            fix="check model.factory and model.key",
        ) from error


def _may_be_missing(name: str, allow_random: Sequence[str]) -> bool:
    # num_batches_tracked only matters for training with a cumulative average, and old checkpoints lack it
    return name.endswith("num_batches_tracked") or any(fnmatchcase(name, pattern) for pattern in allow_random)


def _values(required: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() for name, tensor in required.items() if name in given)


def _patterns(missing: list[str]) -> str:
    """One pattern per top-level part that lacks tensors."""
    return ",".join(dict.fromkeys(f"{name.split('.')[0]}.*" if "." in name else name for name in missing))


def _advice(problems: list[tuple[str, list[str]]], missing: list[str]) -> str:
    blocking = {problem for problem, names in problems if names}
    if blocking == {"unexpected"}:
        return "model.strict=false to leave those out; all the model needs is there"
    if blocking <= {"missing", "unexpected"}:
        return f"check model.factory and model.key, or model.strict=false model.allow_random=[{_patterns(missing)}]"
    return "check model.factory and model.key: the checkpoint is of another network"


def read_state_dict(path: Path, key: str | None = None) -> dict[str, torch.Tensor]:
    """The named tensors in a checkpoint; nothing in the file is executed."""
    return _read(path, key)[0]


def _read(path: Path, key: str | None) -> tuple[dict[str, torch.Tensor], str]:
    """The named tensors, and the key they were found under (empty at the top)."""
    if (reason := unreadable(path)) is not None:
        raise ModelError(f"checkpoint {path} cannot be read: {reason}", fix="model.checkpoint=<file>")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path), ""
    content = _read_pickle(path)
    return _find(content, path) if key is None else (_at(content, key, path), key)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"checkpoint {path} is truncated or not a safetensors file: {error}", fix=_COPY) from error


_COPY = "copy or download the file again"


class _Ignored:
    """Stands for NumPy's numbers in a checkpoint (a best accuracy): they are no weights, and NumPy need not run."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_IGNORED = tuple(
    (_Ignored, name)
    for name in (
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "numpy.core.multiarray._reconstruct",
        "numpy.ndarray",
        "numpy.dtype",
        "_codecs.encode",
    )
)


def _read_pickle(path: Path) -> object:
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read safely is refused below
            with torch.serialization.safe_globals(list(_IGNORED)):
                content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle calls PyTorch's builders with anything
        if _is_archive_of(path, "constants.pkl"):
            raise ModelError(f"checkpoint {path} is TorchScript, not a state dict", fix="model=file") from error
        reason = first_line(error) if isinstance(error, RuntimeError) else "no readable tensors"
        if _is_tar(path):
            reason = "it is of PyTorch 0.1.1 or older (a tar file)"
        raise ModelError(f"checkpoint {path} is truncated or not a checkpoint: {reason}", fix=_COPY) from error
    return content


def _check_archive(path: Path) -> None:
    """Refuse an archive for what it says that it unpacks to; older checkpoints are none."""
    try:
        with open_regular(path) as stream:
            if stream.read(4) == b"PK\3\4":
                checked_members(stream, LARGEST)
    except (UnsafeArchive, OSError) as error:
        raise ModelError(f"checkpoint {path} is truncated or not a checkpoint: {error}", fix=_COPY) from error


def _refused(path: Path, error: pickle.UnpicklingError) -> ModelError:
    """The error for a pickle that is more than tensors."""
    found = _FORBIDDEN_GLOBAL.search(str(error))
    what = f" ({found[1]})" if found else ""
    return ModelError(
        f"checkpoint {path} contains pickled code{what}, which is never run",
        fix="where you trust the file, re-save only the weights: torch.save(model.state_dict(), 'weights.pt')",
    )


def _is_archive_of(path: Path, member: str) -> bool:
    """Tell whether `path` is a zip archive with a file called `member` in its top folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:] == [member] for name in archive.namelist())
    except Exception:  # a damaged directory raises anything from BadZipFile to UnicodeDecodeError
        return False


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except Exception:  # as above
        return False


def _at(content: object, key: str, path: Path) -> dict[str, torch.Tensor]:
    """The state dict at a dotted key; a key that itself contains dots is also found."""
    remaining = key
    while remaining:
        names = _names(content)
        step = next(
            (name for name in sorted(names, key=len, reverse=True) if f"{remaining}.".startswith(f"{name}.")), None
        )
        if step is None:
            raise ModelError(
                f"checkpoint {path} has no key {key!r}; {nearest(remaining, names)}", fix="model.key=<one>"
            )
        content = cast(Mapping[str, object], content)[step]
        remaining = remaining[len(step) + 1 :]
    tensors = _tensors(content)
    if not tensors:
        raise ModelError(f"checkpoint {path} holds no tensors at key {key!r}", fix="choose another model.key")
    return tensors


def _find(content: object, path: Path, depth: int = 0) -> tuple[dict[str, torch.Tensor], str]:
    """The state dict and its key, at the top or inside the wrappers that training scripts use; an average first."""
    names = _names(content) if depth <= _MOST_WRAPPERS else []
    tensors = _tensors(content)
    averages = [name for name in _AVERAGES if name in names]
    for wrapper in (*averages, *(name for name in _WRAPPERS if name in names and not tensors)):
        try:
            inner, key = _find(cast(Mapping[str, object], content)[wrapper], path, depth + 1)
        except ModelError:
            continue  # a decay, or a list without names
        return inner, f"{wrapper}.{key}".rstrip(".")
    if tensors:
        return tensors, ""
    raise ModelError(
        f"checkpoint {path} holds no state dict; its keys: {_few(names) if names else type(content).__name__}",
        fix="model.key=<the key of the state dict>",
    )


def _names(content: object) -> list[str]:
    return [name for name in content if isinstance(name, str)] if isinstance(content, Mapping) else []


def _tensors(content: object) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        return {}
    tensors = ((name, value) for name, value in content.items() if isinstance(value, torch.Tensor))
    return {
        name if isinstance(name, str) else f"<{type(name).__name__} key {number}>": value
        for number, (name, value) in enumerate(tensors)
    }


def _mismatches(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> list[tuple[str, list[str]]]:
    """Problems of tensors that both have, each with their names."""
    shapes = [
        f"{name} is {tuple(given[name].shape)} but the model has {tuple(expected[name].shape)}"
        for name in expected
        if name in given and not given[name].is_nested and given[name].shape != expected[name].shape
    ]
    types = [
        f"{name} is {_kind(given[name])} but the model has {_kind(expected[name])}"
        for name in expected
        if name in given and not _converts(given[name], expected[name])
    ]
    return [("wrong shape", shapes), ("wrong type", types)]


def _converts(given: torch.Tensor, expected: torch.Tensor) -> bool:
    """Tell whether copying keeps what the numbers mean: real numbers stay real, counters and indices whole."""
    if given.is_nested or given.layout is not torch.strided or given.is_quantized or given.is_meta:
        return False
    if expected.dtype in _FLOATS:
        return given.dtype in _FLOATS
    return given.dtype == expected.dtype or (given.dtype in _INTEGERS and expected.dtype in _INTEGERS)


def _kind(tensor: torch.Tensor) -> str:
    layout = "" if tensor.layout is torch.strided else f" {str(tensor.layout).removeprefix('torch.')}"
    layout = " nested" if tensor.is_nested else layout
    return f"{str(tensor.dtype).removeprefix('torch.')}{' without values' if tensor.is_meta else ''}{layout}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
