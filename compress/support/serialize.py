"""Frozen dataclasses to strict JSON and back, by their type annotations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import TypeVar, cast

from pydantic import JsonValue, TypeAdapter, ValidationError

from compress.core.errors import StageError, one_line
from compress.support.plain_json import NotJson, parse_json

__all__ = ["from_json", "misfit", "to_json"]

T = TypeVar("T")

_LONGEST_FIELD, _LONGEST_VALUE = 200, 80  # characters of a message


def to_json(value: object) -> bytes:
    """Indented JSON of a dataclass: enums by value, paths as strings.

    JSON has no infinity (the SQNR of equal outputs is one): it is written as the string `"Infinity"`, which reads back
    as a float.
    """
    plain = _adapter(type(value)).dump_python(value, mode="json")
    return json.dumps(_finite(plain), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def from_json(kind: type[T], content: bytes, changed: Callable[[JsonValue], JsonValue] | None = None) -> T:
    """The dataclass that `to_json` wrote.

    Args:
        changed: gives the document that is read instead of the one that was written.

    Raises:
        StageError: the text is not JSON or does not fit `kind`; names the field, what it is and what is allowed.
    """
    try:
        document = parse_json(content)
        value: T = _adapter(kind).validate_python(document if changed is None else changed(document))
    except NotJson as error:
        raise StageError(f"not a valid {kind.__name__} document: {error}") from error
    except ValidationError as error:
        raise StageError(f"not a valid {kind.__name__} document: {misfit(error)}") from error
    return value


def misfit(error: ValidationError) -> str:
    """The first field that does not fit, as a clause: `models.0.format is 'flash': Input should be 'torch', ...`."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = one_line(".".join(str(part) for part in first["loc"]) or "the whole", _LONGEST_FIELD)
    what = "" if first["type"] == "missing" else f" is {one_line(_summary(first['input']), _LONGEST_VALUE)}"
    return f"{where}{what}: {first['msg']}"


def _summary(value: object) -> str:
    """A value for people; lists and objects by their size, which says more than their first characters."""
    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return "null" if value is None else repr(value)


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return cast("TypeAdapter[T]", _built(cast(Hashable, kind)))


@lru_cache(maxsize=32)
def _built(kind: Hashable) -> TypeAdapter[object]:
    """Building one walks every annotation below `kind`, which takes longer than reading a document with it."""
    return TypeAdapter(kind)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value
