"""Find the `FormatSupport` of a format, and the file that is open: whoever asks about a file asks here."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from compress.core.artifact import Artifact, Format
from compress.formats.base import FormatSupport, NotMeasured

if TYPE_CHECKING:
    from compress.formats.base import DeviceRuntime, OpenFile, Profiler

__all__ = ["by_suffix", "device_runtime", "open_file", "profiled_by", "profiler", "register"]
__all__ += ["release_large", "support_of", "supports"]

_KEPT_BYTES = 64 << 20
"""Size up to which a file stays parsed after its boundary was measured: later questions (drift, budget, estimate,
bundle) cost nothing then. A larger one would weigh on the memory of the stages in between and is parsed again."""

_MOST_OPEN = 8
"""A recipe exports two or three files and delivers a copy of each."""

_registered: dict[Format, FormatSupport] = {}
_opened: OrderedDict[tuple[object, ...], OpenFile] = OrderedDict()


class _Module(Protocol):
    SUPPORT: FormatSupport


def support_of(format: Format) -> FormatSupport:
    """Find what knows `format`: `SUPPORT` of `compress.formats.<format>.support`, unless another was registered."""
    if format not in _registered:
        module = cast("_Module", importlib.import_module(f"compress.formats.{format.value}.support"))
        _registered[format] = module.SUPPORT
    return _registered[format]


def supports() -> Iterator[FormatSupport]:
    """The support of every member of `Format`, in their order."""
    return (support_of(member) for member in Format)


def register(support: FormatSupport) -> None:
    """Let `support` know its format, which needs no folder here then."""
    _registered[support.format] = support


def by_suffix(path: Path) -> FormatSupport | None:
    """Find what knows the suffix of `path`, in whichever case, the longest one first; None where nothing does."""
    name = path.name.lower()
    fitting = [(len(suffix), support) for support in supports() for suffix in support.suffixes if name.endswith(suffix)]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def open_file(artifact: Artifact) -> OpenFile:
    """The artifact, opened; the same one again while the file is what it was, so that it is parsed once."""
    support = support_of(artifact.format)
    key = _identity(artifact)
    if key is None:
        return support.open(artifact)
    if key not in _opened:
        _opened[key] = support.open(artifact)
    _opened.move_to_end(key)
    while len(_opened) > _MOST_OPEN:
        _opened.popitem(last=False)
    return _opened[key]


def release_large() -> None:
    """Let go what was parsed of large files, before a stage needs the memory."""
    for key, file in _opened.items():
        if cast("int", key[-1]) > _KEPT_BYTES:
            file.release()


def profiler(format: Format) -> Profiler:
    """Find what times the layers of a format.

    Raises:
        NotMeasured: nothing does; says why.
    """
    known = support_of(format).profiler
    if isinstance(known, str):
        raise NotMeasured(known)
    return known


def profiled_by(runtime: str, format: Format) -> bool:
    """Tell whether `runtime` times the layers of a format."""
    try:
        return profiler(format).runtime == runtime
    except NotMeasured:
        return False


def device_runtime(format: Format, name: str | None) -> tuple[str, DeviceRuntime]:
    """Choose what runs a format on a board: the runtime `name` that its profile names, else the format's first.

    Raises:
        NotMeasured: no board runs the format.
    """
    runtimes: Mapping[str, DeviceRuntime] = support_of(format).device_runtimes
    if not runtimes:
        raise NotMeasured(f"{format} runs on no device")
    chosen = name if name is not None and name in runtimes else next(iter(runtimes))
    return chosen, runtimes[chosen]


def _identity(artifact: Artifact) -> tuple[object, ...] | None:
    """Everything that an open file depends on, the size last; None for a live module and a file that is not there."""
    if not isinstance(artifact.model, Path):
        return None
    try:
        state = artifact.model.stat()
    except OSError:
        return None
    form = (artifact.format, artifact.precision, artifact.dynamic_batch, artifact.input)
    return (*form, artifact.model, state.st_ino, state.st_mtime_ns, state.st_size)
