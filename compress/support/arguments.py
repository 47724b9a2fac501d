"""The argument parser of every command: a mistake is one line with its fix, as all others."""

from __future__ import annotations

import argparse
from typing import NoReturn

from compress.core.errors import ConfigError

__all__ = ["ArgumentParser"]


class ArgumentParser(argparse.ArgumentParser):
    """Raise `ConfigError` where argparse would print its usage and exit.

    Args:
        prog: the command as users type it.
        usage: what an error advises instead of `<prog> --help`, for a command that prints its own help.
    """

    def __init__(self, prog: str, description: str | None = None, *, usage: str | None = None) -> None:
        super().__init__(prog, description=description, allow_abbrev=False, add_help=usage is None)
        self._fix = f"{prog} --help" if usage is None else f"usage: {usage}"

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"command line: {message}", fix=self._fix)
