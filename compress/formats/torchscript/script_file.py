"""The one door that TorchScript files come in by.

TorchScript is no Python, but a program it stays: it can write files (`aten::save`), map them (`aten::from_file`), call
whatever operators are registered, and some of it runs while the file is loaded. So the archive is written anew before
`torch.jit.load` sees it (`script_archive`), and the graphs that come of it are walked before anything runs them: each
operator must be one that computes (`operators`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, cast

import torch

from compress.core.errors import ModelError
from compress.formats.torchscript.operators import computes
from compress.formats.torchscript.records import LARGEST, Damaged
from compress.formats.torchscript.script_archive import rebuilt
from compress.formats.torchscript.script_code import STRUCTURE, Forbidden
from compress.support.quiet import first_line, quiet

__all__ = ["load_script"]


def load_script(path: Path) -> torch.jit.ScriptModule:
    """The file as a TorchScript module on the CPU, in eval mode; nothing in it has run, and it only computes.

    Raises:
        ModelError: missing, damaged, too large, or doing more than computing.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise Damaged(f"it has more than {LARGEST // 2**30} GiB")
        with quiet():
            script: torch.jit.ScriptModule = torch.jit.load(rebuilt(path.read_bytes()), map_location="cpu")
            _check_operators(script)
            return script.eval()
    except Forbidden as error:
        raise ModelError(
            f"TorchScript file {path} uses {str(error)[:80]!r}, which is more than computing and is never loaded",
            fix="save a network of ordinary operators, or use model=factory",
        ) from error
    except (RuntimeError, OSError, ValueError, Damaged) as error:
        raise ModelError(
            f"model file {path} is damaged or not TorchScript: {first_line(error)}", fix="save it again with torch.jit"
        ) from error


class _Method(Protocol):
    @property
    def inlined_graph(self) -> torch._C.Graph: ...


class _Compiled(Protocol):
    """Members of `torch._C.ScriptModule` beyond its declared type."""

    def _method_names(self) -> list[str]: ...
    def _get_method(self, name: str) -> _Method: ...
    def _get_forward_hooks(self) -> list[_Method]: ...
    def _get_forward_pre_hooks(self) -> list[_Method]: ...


def _check_operators(script: torch.jit.ScriptModule) -> None:
    """Walk the graphs of every method and hook of every module, with all they call; none of them has run."""
    for node in _nodes(graph for module in script.modules() for graph in _graphs(cast(_Compiled, module._c))):
        namespace, _, operator = node.kind().partition("::")
        known = operator in STRUCTURE if namespace == "prim" else namespace == "aten" and computes(operator)
        if not known or any(node.kindOf(attribute) in ("g", "gs") for attribute in node.attributeNames()):
            raise Forbidden(node.kind())


def _graphs(module: _Compiled) -> Iterator[torch._C.Graph]:
    for name in module._method_names():
        yield module._get_method(name).inlined_graph
    for hook in (*module._get_forward_hooks(), *module._get_forward_pre_hooks()):
        yield hook.inlined_graph


def _nodes(blocks: Iterable[torch._C.Graph | torch._C.Block]) -> Iterator[torch._C.Node]:
    for block in blocks:
        for node in block.nodes():
            yield node
            yield from _nodes(node.blocks())
