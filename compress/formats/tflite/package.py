"""Choice of the package that runs `.tflite` files here, or what to install so that one does."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Protocol, cast

from compress.core.errors import ConfigError
from compress.support.quiet import quiet_native

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Interpreter", "InterpreterModule", "find_interpreter", "how_to_install"]

_PACKAGES = (("ai_edge_litert.interpreter", "ai-edge-litert"), ("tflite_runtime.interpreter", "tflite-runtime"))
"""Import and distribution names, preferred first: LiteRT is what TensorFlow Lite became in 2024."""

_LAST_TFLITE_RUNTIME = "2.14.0"
_TFLITE_RUNTIME_PYTHONS = ((3, 8), (3, 11))
"""Oldest and newest Python with wheels of tflite-runtime 2.14.0, the last release; it also needs numpy below 2."""

_OLDEST_LITERT_PYTHON = (3, 10)


class Interpreter(Protocol):
    """The part of the interpreter's API that both packages have."""

    def allocate_tensors(self) -> None: ...
    def get_input_details(self) -> Sequence[dict[str, object]]: ...
    def get_output_details(self) -> Sequence[dict[str, object]]: ...
    def set_tensor(self, tensor_index: int, value: NDArray[np.generic]) -> None: ...
    def get_tensor(self, tensor_index: int) -> NDArray[np.generic]: ...
    def get_tensor_details(self) -> Sequence[dict[str, object]]: ...
    def invoke(self) -> None: ...


class InterpreterModule(Protocol):
    """`ai_edge_litert.interpreter` or `tflite_runtime.interpreter`."""

    def Interpreter(self, **options: object) -> Interpreter: ...  # noqa: N802  # its own name
    def load_delegate(self, library: str, options: dict[str, str] | None = None) -> object: ...

    @property
    def OpResolverType(self) -> type: ...  # noqa: N802


def find_interpreter() -> tuple[InterpreterModule, str]:
    """The interpreter module, and the name and version of its package.

    Raises:
        ConfigError: none is installed, or the installed one does not fit this Python or numpy; names what does.
    """
    broken = None
    for module, package in _PACKAGES:
        try:
            with quiet_native():
                interpreter = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name.split(".")[0]):
                broken = f"{package} cannot be imported: {error}"
            continue
        except (ImportError, AttributeError) as error:  # built for another numpy
            broken = f"{package} cannot be imported: {error}"
            continue
        return cast("InterpreterModule", interpreter), f"{package} {metadata.version(package)}"
    raise ConfigError(broken or "no package that runs .tflite files is installed", fix=how_to_install())


def how_to_install(python: tuple[int, int] | None = None) -> str:
    """Tell what to type on this Python, or on the given version, to get a runtime."""
    version = python or sys.version_info[:2]
    first, last = _TFLITE_RUNTIME_PYTHONS
    if version >= _OLDEST_LITERT_PYTHON:
        return "pip install 'edge-compress[tflite]' (ai-edge-litert, which replaces tflite-runtime)"
    if first <= version <= last:
        return f"pip install tflite-runtime=={_LAST_TFLITE_RUNTIME} 'numpy<2'"
    spelled = ".".join(map(str, version))
    return (
        f"use Python 3.10 or later with ai-edge-litert, or {_spelled(first)} to {_spelled(last)} with "
        f"tflite-runtime=={_LAST_TFLITE_RUNTIME}: neither has wheels for Python {spelled}"
    )


def _spelled(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
