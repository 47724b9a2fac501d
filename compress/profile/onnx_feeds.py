"""Inputs to time an ONNX file with: any number of them, of any element type, in the shapes that the file states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress.core.errors import ConfigError
from compress.formats.onnx.runtime import open_session

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime
    from numpy.typing import NDArray

__all__ = ["make_feeds", "run_once"]

_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def make_feeds(
    session: onnxruntime.InferenceSession, batch: int | None, title: str
) -> tuple[dict[str, NDArray[np.generic]], int]:
    """Normal-looking numbers for floats, zeros for integers (they may be indices), and the batch they make.

    Args:
        batch: size of the first dimension where the file leaves it free; None is 1 there.

    Raises:
        ConfigError: another dimension is free, the file fixes another batch, or an input is no tensor of numbers.
    """
    random = np.random.default_rng(0)
    feeds: dict[str, NDArray[np.generic]] = {}
    for port in session.get_inputs():
        if port.type not in _TYPES:
            raise ConfigError(f"{title}: input {port.name!r} is a {port.type}", fix="profile a model of plain tensors")
        shape = _shape(port.name, port.shape, batch, title)
        kind = np.dtype(_TYPES[port.type])
        values = random.standard_normal(shape) if kind.kind == "f" else np.zeros(shape)
        feeds[port.name] = values.astype(kind)
    if not feeds:
        raise ConfigError(f"{title} has no input, so nothing of it runs more than once", fix="profile another file")
    first = next(iter(feeds.values()))
    return feeds, batch or (first.shape[0] if first.ndim else 1)


def run_once(path: Path, *, half: bool) -> None:
    """Run a file on one sample, with one thread.

    Raises:
        ConfigError: as `make_feeds`.
        StageError: ONNX Runtime refuses the file.
    """
    session = open_session(path, threads=1, half=half)
    session.run(None, make_feeds(session, None, path.name)[0])


def _shape(name: str, stated: list[int | str | None], batch: int | None, title: str) -> tuple[int, ...]:
    """The stated shape with the batch filled in."""
    if not stated:
        return ()
    first, rest = stated[0], stated[1:]
    sizes = tuple(size for size in rest if isinstance(size, int))
    if len(sizes) != len(rest):
        text = ", ".join(str(size) if size is not None else "?" for size in stated)
        raise ConfigError(
            f"{title}: input {name!r} has the dynamic shape [{text}]; only the batch may be free",
            fix="export it with fixed sizes",
        )
    if isinstance(first, int):
        if batch is not None and batch != first:
            raise ConfigError(
                f"{title}: input {name!r} has a fixed first dimension of {first}, not batch {batch}",
                fix=f"batch {first}, or export it with a free one (stage.to_onnx.dynamic_batch=true)",
            )
        return (first, *sizes)
    return (batch or 1, *sizes)
