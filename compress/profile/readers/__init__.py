"""One module per format, each with `record` and `launch_us` (see `compress.profile.layer.Reader`)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from compress.core.artifact import Format
from compress.core.errors import ConfigError
from compress.formats.base import NotMeasured
from compress.formats.registry import profiler, supports

if TYPE_CHECKING:
    from compress.profile.layer import Reader

__all__ = ["find_reader", "profiled"]

_ELSEWHERE = "profile the ONNX file or the PyTorch model it was made from"


def find_reader(format: Format, runtime: str | None = None) -> Reader:
    """The module that profiles `format`.

    Args:
        runtime: as the user asked for it; None takes the only one there is.

    Raises:
        ConfigError: nothing profiles the format, or not in that runtime.
    """
    try:
        known = profiler(format)
    except NotMeasured as reason:
        formats = ", ".join(sorted(kind.value for kind in profiled()))
        raise ConfigError(
            f"layers of a {format} file cannot be timed ({reason}); formats that can: {formats}", fix=_ELSEWHERE
        ) from reason
    if runtime is not None and runtime != known.runtime:
        raise ConfigError(
            f"runtime {runtime!r} does not profile {format} files", fix=f"--runtime {known.runtime}, or leave it out"
        )
    return cast("Reader", importlib.import_module(known.module))


def profiled() -> frozenset[Format]:
    """The formats whose layers can be timed."""
    return frozenset(one.format for one in supports() if not isinstance(one.profiler, str))
