"""Range observers, one per file. A new file with one `RangeObserver` subclass is a new choice of `observer=<file>`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from compress.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from compress.quantization.observers.base import RangeObserver

__all__ = ["load_observer", "observer_names"]

_ALSO_CALLED = {"histogram": "mse"}
"""Other names that configurations use."""


def observer_names() -> tuple[str, ...]:
    """Names that `load_observer` knows; found without importing torch."""
    files = {module.name for module in pkgutil.iter_modules(__path__)} - {"base"}
    return tuple(sorted(files | _ALSO_CALLED.keys()))


def load_observer(name: str) -> type[RangeObserver]:
    """The observer class of `observers/<name>.py`, or of the file that is also called so.

    Raises:
        ConfigError: there is no such observer.
    """
    if name not in observer_names():
        raise ConfigError(f"unknown observer {name!r}", fix=nearest(name, observer_names()))
    from compress.quantization.observers.base import RangeObserver

    module = importlib.import_module(f"{__name__}.{_ALSO_CALLED.get(name, name)}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, RangeObserver) and value.__module__ == module.__name__
    )
