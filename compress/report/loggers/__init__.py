"""Loggers people have: one module per kind, named after it, with `require()` and `create(config, facts)`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast

from compress.report.loggers.base import Logger, RunFacts, flattened
from compress.report.loggers.config import LoggerConfig, MlflowLogging, NoLogging, TensorboardLogging
from compress.support.observe import listening

__all__ = ["Logger", "LoggerConfig", "MlflowLogging", "NoLogging", "RunFacts", "TensorboardLogging"]
__all__ += ["flattened", "logged", "require_logger"]


class _Kind(Protocol):
    def require(self) -> None: ...
    def create(self, config: LoggerConfig, facts: RunFacts) -> Logger: ...


def require_logger(config: LoggerConfig) -> None:
    """Refuse a logger whose package is missing, before any work.

    Raises:
        MissingExtra: it is; names what to install.
    """
    if not isinstance(config, NoLogging):
        _kind(config).require()


@contextmanager
def logged(config: LoggerConfig, facts: RunFacts) -> Iterator[Logger | None]:
    """Log what is observed inside the block; yields None where nothing is to be logged.

    Raises:
        MissingExtra: the logger's package is missing.
        StageError: its folder cannot be written.
    """
    if isinstance(config, NoLogging):
        yield None
        return
    logger = _kind(config).create(config, facts)
    failed = True
    try:
        with listening(logger.scalar):
            yield logger
        failed = False
    finally:
        logger.close(failed=failed)


def _kind(config: LoggerConfig) -> _Kind:
    return cast("_Kind", importlib.import_module(f"compress.report.loggers.{config.kind}"))
