"""Content hash of a live module: what it holds and what its code says."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import fx, nn

from compress.support.files import sha256_file

__all__ = ["module_digest", "onnx_digest", "tensors_digest"]

_SCALARS = (bool, int, float, str, tuple, type(None))


def module_digest(module: nn.Module) -> str:
    """Hex SHA-256 over tensors, structure, plain attributes, graph code and the source files of the user's classes.

    Source files count because two versions of a hand-written `forward` share one structure.
    """
    digest = hashlib.sha256(tensors_digest(dict(_tensors(module))).encode())
    for text in (repr(module), *_graph_code(module), *_attributes(module), *_sources(module)):
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


def onnx_digest(path: Path) -> str:
    """Hex SHA-256 of an ONNX file and of the files beside it that hold its weights."""
    import onnx

    from compress.formats.onnx.external_data import external_files

    beside = external_files(onnx.load(path, load_external_data=False), path)
    digests = [sha256_file(file) for file in (path, *beside)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def tensors_digest(tensors: dict[str, torch.Tensor]) -> str:
    """Hex SHA-256 over names, types, shapes and bytes, whatever the order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, buffers (also those kept out of the state dict) and tensors stored as plain attributes."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
    for path, child in module.named_modules():
        for name, value in vars(child).items():
            if isinstance(value, torch.Tensor):
                yield f"{path}.{name}", value


def _graph_code(module: nn.Module) -> Iterator[str]:
    for _, child in module.named_modules():
        if isinstance(child, fx.GraphModule):
            yield child.code


def _attributes(module: nn.Module) -> Iterator[str]:
    for path, child in module.named_modules():
        plain = {name: value for name, value in vars(child).items() if isinstance(value, _SCALARS) and name[0] != "_"}
        yield f"{path}:{sorted(plain.items())!r}"


def _sources(module: nn.Module) -> list[str]:
    """Digests of the files that define classes outside torch's packages."""
    classes = {type(child) for child in module.modules() if type(child).__module__.split(".")[0] not in _LIBRARIES}
    files = {file for file in map(_source_file, classes) if file is not None}
    return sorted(sha256_file(file) for file in files)


_LIBRARIES = frozenset({"torch", "torchvision", "torchao"})
"""Their versions are recorded with the run."""


def _source_file(cls: type) -> Path | None:
    try:
        file = inspect.getsourcefile(cls)
    except (TypeError, OSError):
        return None  # made at run time, as fx does for each graph; its code is hashed instead
    return Path(file) if file and Path(file).is_file() else None
