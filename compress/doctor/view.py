"""The findings as text for a terminal or a pipe, with the standard library alone: it works where rich is missing."""

from __future__ import annotations

import itertools
import os
import shutil
import textwrap
from collections.abc import Sequence
from typing import TextIO

from compress.core.errors import one_line
from compress.doctor.check import Check, Level

__all__ = ["draw"]

_SIGNS = {Level.OK: "✓", Level.NOTE: "–", Level.NO: "✗"}
_PLAIN_SIGNS = {Level.OK: "ok", Level.NOTE: "--", Level.NO: "NO"}
_COLOURS = {Level.OK: "32", Level.NOTE: "33", Level.NO: "31"}  # ANSI: green, yellow, red
_PIPE_WIDTH = 100


def draw(checks: Sequence[Check], stream: TextIO) -> str:
    """The findings by group, wrapped to the width of `stream`, in characters and colours it has."""
    signs = _SIGNS if _writes(stream, "✓–✗") else _PLAIN_SIGNS
    width = shutil.get_terminal_size((_PIPE_WIDTH, 0)).columns
    names = max(len(check.name) for check in checks)
    lines: list[str] = []
    for group, grouped in itertools.groupby(checks, key=lambda check: check.group):
        lines += ["", group.capitalize()]
        for check in grouped:
            sign = signs[check.level]
            sign = f"\033[{_COLOURS[check.level]}m{sign}\033[0m" if _coloured(stream) else sign
            lines += _wrapped(check, sign, len(signs[check.level]), names, width)
    return _spelled("\n".join(lines), stream)


def _wrapped(check: Check, sign: str, sign_width: int, names: int, width: int) -> list[str]:
    text = one_line(check.text if check.fix is None else f"{check.text} | fix: {check.fix}")
    indent = sign_width + names + 5
    body = textwrap.wrap(text, max(20, width - indent), break_on_hyphens=False, break_long_words=False) or [""]
    return [f"  {sign} {check.name:<{names}}  {body[0]}".rstrip(), *(" " * indent + line for line in body[1:])]


def _coloured(stream: TextIO) -> bool:
    """https://no-color.org and https://force-color.org; both count only when they are not empty."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _writes(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _spelled(text: str, stream: TextIO) -> str:
    """`text` with `?` for what the stream cannot write, which must not end the doctor."""
    encoding = stream.encoding or "ascii"
    return text.encode(encoding, errors="replace").decode(encoding)
