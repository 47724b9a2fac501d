"""Checkpoints: read without running code, unwrap, fit into a module."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from compress.errors import ModelError, nearest
from compress.quiet import first_line

__all__ = ["load_checkpoint", "read_state_dict"]

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
_AVERAGES = ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "params_ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""Left by DataParallel, torch.compile and training frameworks."""
_FORBIDDEN_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_SHOWN = 3
_FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})
_INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})


def load_checkpoint(module: nn.Module, path: Path, *, key: str | None, strict: bool) -> None:
    """Fill `module` from a checkpoint.

    Args:
        key: where the state dict lies in the checkpoint, dots for nesting; None finds it.
        strict: refuse missing and unexpected keys; a wrong shape is always refused.

    Raises:
        ModelError: unreadable, unsafe, or the keys or shapes do not fit; shows the first few.
    """
    expected = module.state_dict()
    given = _without_prefix(read_state_dict(path, key), expected)
    problems = _mismatches(expected, given, strict=strict)
    if problems:
        raise ModelError(
            f"checkpoint {path} does not fit the model: {'; '.join(problems)}",
            fix="check model.factory and model.key, or model.strict=false to accept missing and unexpected keys",
        )
    if not expected.keys() & given.keys():
        raise ModelError(f"checkpoint {path} shares no key with the model", fix="check model.factory and model.key")
    module.load_state_dict(given, strict=False)


def read_state_dict(path: Path, key: str | None = None) -> dict[str, torch.Tensor]:
    """The named tensors in a checkpoint; nothing in the file is executed."""
    if not path.is_file():
        raise ModelError(f"checkpoint {path} does not exist", fix="model.checkpoint=<file>")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    content = _read_pickle(path)
    return _find(content, path) if key is None else _at(content, key, path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"checkpoint {path} is truncated or not a safetensors file: {error}", fix=_COPY) from error


_COPY = "copy or download the file again"


def _read_pickle(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read safely is refused below
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except (RuntimeError, EOFError, KeyError, ValueError, IndexError, zipfile.BadZipFile, OSError) as error:
        if _is_archive_of(path, "constants.pkl"):
            raise ModelError(f"checkpoint {path} is TorchScript, not a state dict", fix="model=file") from error
        reason = first_line(error) if isinstance(error, RuntimeError) else "no readable tensors"
        raise ModelError(f"checkpoint {path} is truncated or not a checkpoint: {reason}", fix=_COPY) from error
    return content


def _refused(path: Path, error: pickle.UnpicklingError) -> ModelError:
    """The error for a pickle that is more than tensors."""
    found = _FORBIDDEN_GLOBAL.search(str(error))
    what = f" ({found[1]})" if found else ""
    return ModelError(
        f"checkpoint {path} contains pickled code{what}, which is never run",
        fix="where you trust the file, re-save only the weights: torch.save(model.state_dict(), 'weights.pt')",
    )


def _is_archive_of(path: Path, member: str) -> bool:
    """Whether `path` is a zip archive with a file called `member` in its top folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:] == [member] for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
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


def _find(content: object, path: Path) -> dict[str, torch.Tensor]:
    """The state dict, at the top or inside the wrappers that training scripts use."""
    names = _names(content)
    tensors = _tensors(content)
    if tensors:
        return tensors
    wrapper = next((name for name in (*_WRAPPERS, *_AVERAGES) if name in names), None)
    if wrapper is not None:
        return _find(cast(Mapping[str, object], content)[wrapper], path)
    raise ModelError(
        f"checkpoint {path} holds no state dict; its keys: {_few(names) if names else type(content).__name__}",
        fix="model.key=<the key of the state dict>",
    )


def _names(content: object) -> list[str]:
    return [name for name in content if isinstance(name, str)] if isinstance(content, Mapping) else []


def _tensors(content: object) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _without_prefix(given: dict[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Strip prefixes that every key has and the model does not."""
    while not given.keys() & expected.keys():
        prefix = next((text for text in _PREFIXES if all(name.startswith(text) for name in given)), None)
        if prefix is None or not given:
            break
        given = {name[len(prefix) :]: tensor for name, tensor in given.items()}
    return given


def _mismatches(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], *, strict: bool) -> list[str]:
    # num_batches_tracked only matters for training with a cumulative average, and old checkpoints lack it
    missing = [name for name in expected if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in expected]
    shapes = [
        f"{name} is {tuple(given[name].shape)} but the model has {tuple(expected[name].shape)}"
        for name in expected
        if name in given and given[name].shape != expected[name].shape
    ]
    types = [
        f"{name} is {_kind(given[name])} but the model has {_kind(expected[name])}"
        for name in expected
        if name in given and not _converts(given[name], expected[name])
    ]
    problems = [("wrong shape", shapes), ("wrong type", types)]
    if strict:
        problems += [("missing", missing), ("unexpected", unexpected)]
    return [f"{len(names)} {problem}: {_few(names)}" for problem, names in problems if names]


def _converts(given: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether copying keeps what the numbers mean: real numbers stay real, counters and indices whole."""
    if given.layout is not torch.strided or given.is_quantized or given.is_meta:
        return False
    if expected.dtype in _FLOATS:
        return given.dtype in _FLOATS
    return given.dtype == expected.dtype or (given.dtype in _INTEGERS and expected.dtype in _INTEGERS)


def _kind(tensor: torch.Tensor) -> str:
    layout = "" if tensor.layout is torch.strided else f" {str(tensor.layout).removeprefix('torch.')}"
    return f"{str(tensor.dtype).removeprefix('torch.')}{' without values' if tensor.is_meta else ''}{layout}"


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
