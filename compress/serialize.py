"""Frozen dataclasses to strict JSON and back, by their type annotations."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from compress.errors import StageError

__all__ = ["from_json", "to_json"]

T = TypeVar("T")

# JSON has no infinity (the SQNR of equal outputs): it is written as the string "Infinity" and read back as a float.
_CONFIG = ConfigDict(ser_json_inf_nan="strings")


def to_json(value: object) -> bytes:
    """Indented JSON of a dataclass; enums by value, paths as strings, infinities as `"Infinity"`."""
    return _adapter(type(value)).dump_json(value, indent=2) + b"\n"


def from_json(kind: type[T], content: bytes) -> T:
    """The dataclass that `to_json` wrote.

    Raises:
        StageError: the text is not JSON or does not fit `kind`.
    """
    try:
        return _adapter(kind).validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StageError(f"not a valid {kind.__name__} document: {where}: {first['msg']}") from error


@lru_cache(maxsize=None)
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind, config=_CONFIG)
