"""Frozen dataclasses to strict JSON and back, by their type annotations."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from functools import lru_cache
from typing import Annotated, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from compress.errors import StageError

__all__ = ["Milliseconds", "from_json", "to_json"]

T = TypeVar("T")

Milliseconds = Annotated[float, Field(ge=1e-6, le=1e9, allow_inf_nan=False)]
"""One call: from a clock tick of a nanosecond to eleven days; NaN passes comparisons and is refused by name."""


def to_json(value: object) -> bytes:
    """Indented JSON of a dataclass: enums by value, paths as strings.

    JSON has no infinity (the SQNR of equal outputs is one): it is written as the string `"Infinity"`, which reads back
    as a float.
    """
    plain = _adapter(type(value)).dump_python(value, mode="json")
    return json.dumps(_finite(plain), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def from_json(kind: type[T], content: bytes) -> T:
    """The dataclass that `to_json` wrote.

    Raises:
        StageError: the text is not JSON or does not fit `kind`.
    """
    try:
        value: T = _adapter(kind).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StageError(f"not a valid {kind.__name__} document: {where}: {first['msg']}") from error
    return value


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
