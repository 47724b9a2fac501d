"""Checks of a JSON document's fields, put together like its type; each `Check` takes a value and the field's name."""

import math
import re
from typing import Any, Callable, Dict, Optional

from .json_text import shown

Check = Callable[[Any, str], None]

LONGEST_TEXT = 1000  # characters of a name, a path or a sentence
# What ends a line or redraws one on a terminal: C0 and C1 controls, line separators, bidirectional overrides.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def wrong(name: str, value: object, wanted: str) -> ValueError:
    return ValueError("%s is %s, not %s" % (name or "the document", shown(value), wanted))


def text(value: Any, name: str) -> None:
    """One line of at most `LONGEST_TEXT` characters."""
    if not isinstance(value, str):
        raise wrong(name, value, "text")
    if len(value) > LONGEST_TEXT or UNPRINTABLE.search(value):
        raise wrong(name, value, "one line of at most %d characters" % LONGEST_TEXT)


def matching(pattern: str, wanted: str) -> Check:
    """Text that is of the form `pattern`, which is `wanted` in words."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise wrong(name, value, wanted)

    return check


def flag(value: Any, name: str) -> None:
    if not isinstance(value, bool):
        raise wrong(name, value, "true or false")


def integer(low: int, high: int) -> Check:
    def check(value: Any, name: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(name, value, "a whole number from %d to %d" % (low, high))

    return check


def number(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise wrong(name, value, "a number")


def optional(check: Check) -> Check:
    """Null, or what `check` takes."""
    return lambda value, name: None if value is None else check(value, name)


def sequence(check: Check, low: int = 0, high: Optional[int] = None) -> Check:
    """A list of `low` to `high` such values."""

    def checked(value: Any, name: str) -> None:
        if not isinstance(value, list):
            raise wrong(name, value, "a list")
        if len(value) < low or (high is not None and len(value) > high):
            wanted = str(low) if low == high else "at least %d" % low if high is None else "%d to %d" % (low, high)
            raise ValueError("%s has %d entries, not %s" % (name, len(value), wanted))
        for index, item in enumerate(value):
            check(item, "%s[%d]" % (name, index))

    return checked


def mapping(check: Check) -> Check:
    """An object whose every value is such; keys are text as elsewhere."""

    def checked(value: Any, name: str) -> None:
        if not isinstance(value, dict):
            raise wrong(name, value, "an object")
        for key, item in value.items():
            text(key, "a key of %s" % name)
            check(item, "%s.%s" % (name, shown(key)[1:-1]))

    return checked


def record(required: Dict[str, Check], others: Optional[Dict[str, Check]] = None) -> Check:
    """An object with these fields; what it has besides is of a later release and not looked at."""

    def checked(value: Any, name: str) -> None:
        if not isinstance(value, dict):
            raise wrong(name, value, "an object")
        for key, check in required.items():
            if key not in value:
                raise ValueError("%s has no %r" % (name or "it", key))
            check(value[key], "%s.%s" % (name, key) if name else key)
        for key, check in (others or {}).items():
            if key in value:
                check(value[key], "%s.%s" % (name, key) if name else key)

    return checked
