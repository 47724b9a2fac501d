"""Live modules on disk and back, without ever running code from the file.

Two forms, because neither covers both kinds of module:

* a captured graph (`torch.fx.GraphModule`, for example after quantization) is exported again to a `.pt2`, and read
  back as a stranger's `.pt2` is;
* an ordinary `nn.Module` is saved whole and read back with `weights_only=True`, which rebuilds only objects of classes
  on an allow-list: modules of `torch.nn` and of this package, and the classes the source model is made of.
"""

from __future__ import annotations

import importlib
import io
from pathlib import Path

import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.formats.onnx.program import program_for_storing
from compress.graph.capture import static_batch_reason
from compress.graph.weights import graph_tensors
from compress.models.exported import is_tensor_name, load_graph
from compress.support.files import write_bytes
from compress.support.quiet import quiet

__all__ = ["load_module", "save_module"]

_GRAPH, _WHOLE = "module.pt2", "module.pt"


def save_module(module: nn.Module, input: InputSpec, folder: Path, *, source: nn.Module | None) -> str | None:
    """Write `module` into `folder`; the file's name, or None when it holds something that cannot be read back safely.

    A module that cannot be kept is no error: the stage that made it is run again when its output is needed.
    """
    if isinstance(module, torch.fx.GraphModule):
        return _save_graph(module, input, folder / _GRAPH)
    return _save_whole(module, folder / _WHOLE, source)


def load_module(path: Path, *, source: nn.Module | None) -> nn.Module:
    """Read what `save_module` wrote, in eval mode. `source` is the model the pipeline started from."""
    if path.name == _GRAPH:
        return load_graph(path)
    with torch.serialization.safe_globals([*(_allowed(path, source) or ())]):
        module = torch.load(path, weights_only=True)
    assert isinstance(module, nn.Module)
    return module.eval()


def _save_graph(graph: torch.fx.GraphModule, input: InputSpec, path: Path) -> str | None:
    if not all(map(is_tensor_name, graph_tensors(graph))):
        return None  # a name that the reader takes for an attempt to run code
    program = program_for_storing(graph, input) or _exported(graph, input)
    if program is None:
        return None  # it runs, but cannot be exported a second time
    content = io.BytesIO()  # torch's own file writer aborts the process when the disk is full
    with quiet():
        torch.export.save(program, content)
    write_bytes(path, content.getvalue())
    return path.name


def _exported(graph: torch.fx.GraphModule, input: InputSpec) -> torch.export.ExportedProgram | None:
    batch = 1 if static_batch_reason(graph) else 2
    dimensions = {} if batch == 1 else {0: torch.export.Dim("batch")}
    try:
        with quiet():
            return torch.export.export(
                graph, (torch.zeros(batch, *input.shape),), dynamic_shapes=(dimensions,), strict=False
            )
    except (RuntimeError, ValueError, AssertionError):
        return None


def _save_whole(module: nn.Module, path: Path, source: nn.Module | None) -> str | None:
    content = io.BytesIO()
    try:
        torch.save(module, content)
    except Exception:  # a lambda, an open file, or what the user's own `__getstate__` raises
        return None
    content.seek(0)
    if _allowed(content, source) is None:
        return None
    write_bytes(path, content.getvalue())
    return path.name


def _allowed(file: Path | io.BytesIO, source: nn.Module | None) -> list[type] | None:
    """Classes the file needs, or None if any is neither a `torch.nn` module nor a class of the source model."""
    modules = source.modules() if source is not None else ()
    own = {f"{type(m).__module__}.{type(m).__qualname__}": type(m) for m in modules}
    needed = []
    for name in torch.serialization.get_unsafe_globals_in_checkpoint(file):
        found = own.get(name) or _known_class(name)
        if found is None:
            return None
        needed.append(found)
    return needed


def _known_class(name: str) -> type | None:
    module_name, _, class_name = name.rpartition(".")
    if not module_name.startswith(("torch.nn.modules.", "compress.")):
        return None
    found = getattr(importlib.import_module(module_name), class_name, None)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None
