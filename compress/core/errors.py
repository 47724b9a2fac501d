"""Everything this package raises on purpose.

    CompressError                 one line for the user: what was given, what is allowed, how to fix it
    ├── ConfigError    exit 2     the request cannot be carried out as written
    │   ├── Refusal               a stage asks for what the target device cannot run
    │   ├── ModelError            the model or checkpoint named by the configuration is unusable
    │   ├── DataError             the data set named by the configuration is unusable
    │   └── MissingExtra          an optional dependency is not installed
    ├── StageError     exit 1     a stage started and failed
    │   ├── ParityError           an exported file does not compute what its source computes
    │   └── DeviceMissing         a file needs hardware that this machine has not
    └── DeviceError    exit 1     a device refuses us, or cannot do what is asked of it
        └── Unreachable           it does not answer; it may later

A message is complete on its own; `fix` says what to type or change.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import ClassVar

__all__ = [
    "CompressError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "DeviceMissing",
    "MissingExtra",
    "ModelError",
    "ParityError",
    "Refusal",
    "StageError",
    "Unreachable",
    "names_near",
    "nearest",
    "one_line",
]

_UNSEEN = frozenset({"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"})
"""Unicode categories that move the cursor, end the line, turn the direction of text, or may not be in XML or UTF-8."""

_LONGEST_PART = 4000  # characters: fifty lines of a terminal, more than any list of allowed names takes


def one_line(text: str, limit: int = _LONGEST_PART) -> str:
    """A text from anywhere as one line of at most `limit` characters that a terminal shows and does not obey.

    Control characters (line ends, escape sequences), format characters (bidirectional overrides), lone surrogates and
    what is no character are shown as Python writes them, `\\x1b`; letters of any script stay.
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    shown = "".join(ascii(c)[1:-1] if unicodedata.category(c) in _UNSEEN else c for c in cut)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


class CompressError(Exception):
    """Base of every deliberate error; `str(error)` is the one line a user sees, whatever is in its texts."""

    exit_code: ClassVar[int] = 1

    def __init__(self, problem: str, *, fix: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        problem = one_line(self.problem)  # file names, YAML values and devices' words are in it
        return f"{problem} | fix: {one_line(self.fix)}" if self.fix else problem


class ConfigError(CompressError):
    """The configuration is wrong; nothing was started."""

    exit_code = 2


class Refusal(ConfigError):
    """A stage that the target cannot use, with the reason (a fact about the device) and the fix."""


class ModelError(ConfigError):
    """The model or its checkpoint is missing, truncated, unsafe or does not fit the declared input."""


class DataError(ConfigError):
    """The data set is missing, empty, corrupt or inconsistent; names the file."""


class MissingExtra(ConfigError):
    """An optional dependency is absent."""

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs the package {package!r}", fix=f"pip install 'edge-compress[{extra}]'")


class StageError(CompressError):
    """A stage failed while running."""


class ParityError(StageError):
    """An exported file does not reproduce its source's outputs within tolerance; it was not handed over."""


class DeviceMissing(StageError):
    """A compiled file needs hardware that this machine has not; what can be read from the file is still measured."""


class DeviceError(CompressError):
    """A device refuses us, lacks something, or gave an answer that cannot be used."""


class Unreachable(DeviceError):
    """A device does not answer."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Text naming what is allowed, closest match first: `did you mean 'amount'? allowed: amount, scope`."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}allowed: {', '.join(names) or '(none)'}"


def names_near(given: str, known: Sequence[str]) -> str:
    """Text naming up to five of many that resemble a pattern, or the first five: `names near it: conv1, conv2`."""
    return f"names near it: {', '.join(difflib.get_close_matches(given, known, n=5, cutoff=0.3) or known[:5])}"
