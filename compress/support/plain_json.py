"""The one reader of JSON: plain values of bounded number and depth; everything else is one line.

Documents come from boards, bundles, run folders and model files of strangers. Python's own reader takes NaN, integers
of a million digits, half of a surrogate pair, and the last of two equal keys, where another reader takes the first;
and it calls itself for each level. Here all of that is refused, depth and number before any memory is taken for them.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable

from pydantic import JsonValue

from compress.core.errors import one_line
from compress.support.plain_yaml import fits

__all__ = ["MOST_VALUES", "NotJson", "parse_json"]

MOST_VALUES = 2_000_000
"""Values in a document; the largest report so far, of 400 layers, has 100,000. Each takes 100 bytes at most."""
_DEEPEST = 64
"""Lists and objects in one another; a report has 8, and in it a configuration of at most 32 (`plain_yaml`)."""
_LONGEST_NUMBER = 400  # characters: more digits than any float has, written out
_SHOWN = 60
_NO_BRACKETS = re.compile(r"[^\[\]{}]+")


class NotJson(ValueError):
    """Fault of a text that is no plain JSON, as a clause (`the key 'a' comes twice`)."""


def parse_json(content: bytes | str, *, values: int = MOST_VALUES) -> JsonValue:
    """The value in a document.

    Args:
        content: bytes are UTF-8, with or without a byte order mark.
        values: how many there may be, those inside lists and objects counted.

    Raises:
        NotJson: no JSON, or more than plain values: NaN, a number that does not fit 64 bits, a key twice, a text that
            is none, nesting beyond 64, too many values.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        _check_extent(text, values)
        value: JsonValue = json.loads(
            text, parse_constant=_constant, parse_int=_integer, parse_float=_float, object_pairs_hook=_object
        )
        if "\\u" in text or not isinstance(content, bytes):  # UTF-8 itself has no halves of pairs
            _check_texts([value])
    except UnicodeDecodeError as error:
        raise NotJson(f"it is not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise NotJson(f"it is not JSON: {error.msg}, line {error.lineno}, column {error.colno}") from error
    return value


def _check_extent(text: str, most: int) -> None:
    """Number and depth of the values, counted outside of texts; of what is no JSON, up to where a reader stops."""
    unquoted = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    depth, brackets = 0, _NO_BRACKETS.sub("", unquoted)
    if unquoted.count(",") + brackets.count("[") + brackets.count("{") >= most:
        raise NotJson(f"it has more than {most:,} values")
    for bracket in brackets:
        depth += 1 if bracket in "[{" else -1
        if depth > _DEEPEST:
            raise NotJson(f"it is nested more than {_DEEPEST} deep")


def _constant(name: str) -> JsonValue:
    raise NotJson(f"{name} is not a number in JSON")


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise NotJson(f"a number of {len(digits):,} digits")
    number = int(digits)
    if not fits(number):
        raise NotJson(f"the integer {_shown(digits)} does not fit 64 bits")
    return number


def _float(digits: str) -> float:
    if len(digits) > _LONGEST_NUMBER:
        raise NotJson(f"a number of {len(digits):,} digits")
    number = float(digits)
    if not math.isfinite(number):
        raise NotJson(f"the number {_shown(digits)} is larger than any float")
    return number


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise NotJson(f"the key '{_shown(twice)}' comes twice")
    return value


def _check_texts(values: Iterable[JsonValue]) -> None:
    for value in values:
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, dict):
            _check_texts(value)  # its keys
            _check_texts(value.values())
        elif isinstance(value, list):
            _check_texts(value)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise NotJson(f"the text '{_shown(text)}' has half of a surrogate pair, which is no character") from error


def _shown(text: str) -> str:
    return one_line(text, _SHOWN)
