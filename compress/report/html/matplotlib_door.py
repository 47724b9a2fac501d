"""The one way to matplotlib: as it comes, whatever a `matplotlibrc`, `MPLBACKEND` or a program around us has set.

A setting of the user's, such as `text.usetex`, would change or break every plot. The file is even read from the working
folder, and one that cannot be decoded fails the import, as does a backend that does not exist.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compress.support.quiet import quiet
from compress.support.scratch import scratch_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["open_matplotlib"]

_KEPT = ("backend", "backend_fallback")  # of a program around us; figures without a window do not ask for them


def open_matplotlib() -> tuple[type[Figure], Callable[[Mapping[str, object]], AbstractContextManager[None]]]:
    """The class of figures, and a context with matplotlib's defaults and the given settings on top."""
    if "matplotlib" not in sys.modules:
        with _nothing_set():
            import matplotlib  # noqa: F401  reads its settings
    with quiet():  # it logs that it lists the fonts, and that a home cannot be written
        from matplotlib.figure import Figure

    return Figure, _settings


@contextmanager
def _settings(own: Mapping[str, object]) -> Iterator[None]:
    from matplotlib import rc_context, rcParams, rcParamsDefault

    with rc_context():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some defaults are deprecated settings
            rcParams.update({key: rcParamsDefault[key] for key in rcParamsDefault if key not in _KEPT})
            rcParams.update(own)  # type: ignore[arg-type]  # its stubs list every key; keys are checked as they are set
        yield


@contextmanager
def _nothing_set() -> Iterator[None]:
    """Stay in a folder with an empty `matplotlibrc`, which goes before every other one, and without `MPLBACKEND`."""
    backend = os.environ.pop("MPLBACKEND", None)
    here = Path.cwd()
    try:
        with scratch_folder() as empty:
            (empty / "matplotlibrc").touch()
            os.chdir(empty)
            try:
                yield
            finally:
                os.chdir(here)
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
