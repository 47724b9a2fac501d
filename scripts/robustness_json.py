"""Odd JSON: documents made of a reader's own types, with fields that no reader expects, or with damaged text."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path

from pydantic import JsonValue
from robustness_case import mutated

from compress.core.artifact import InputSpec
from compress.core.budget import Verdict

__all__ = ["ODD_VALUES", "example", "odd_document"]

_TEXTS = (
    *("[", "]", "{", "}", ",", ":", '"', "\\", "\\u", "\\ud800", "\\udfff", "null", "true", "NaN", "Infinity"),
    *("-Infinity", "1e999", "-1", "0", "1.5", "9" * 5000, "1e", "-", "0x1", "'", "/*", "//", "\n", "\0", "\x1b[31m"),
    *("\ufeff", "\u2028", "\ud800", '"a":1,', '{"a":', '""', "[" * 70),
)
_TOKENS = (*(text.encode("utf-8", "surrogatepass") for text in _TEXTS), b"\xff", b"\xfe\xff")

_Odd = Sequence[typing.Any]  # mypy wants every empty list typed

ODD_VALUES: _Odd = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**53, 2**63, 10**18, 10**400, -(10**30)),
    *(0.0, -0.0, 1e-320, 1e-9, 0.5, -0.5, 1.5, 1e18, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        "a",
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "1",
        "true",
        "null",
        "\ud800",
        "a\nb",
        "\x1b[2J",
        "\u202e",
        "\0",
    ),
    *("../../etc/passwd", "/dev/zero", "x" * 100_000, "%s{}", "onnx", "fp32", "int8", "flash", "2001-13-45"),
    *([], [[]], [None], [1, "a"], {}, {"a": 1}, {"": None}, [0] * 5000, {"a" * 300: "b"}),
)


def example(kind: object, rng: random.Random, wild: float = 0.0) -> JsonValue:
    """A value for a field of a type, as JSON: of a dataclass with all its fields; `wild`: share of numbers and texts
    that are out of all bounds.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return example(arguments[0], rng, wild)
    if origin is typing.Literal:
        return typing.cast(JsonValue, rng.choice(arguments))
    if origin in (typing.Union, types.UnionType):
        return example(rng.choice(arguments), rng, wild)
    if origin in (tuple, list, Sequence) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return _several(arguments, rng, wild)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {_text(rng, wild): example(arguments[1], rng, wild) for _ in range(rng.choice((0, 1, 2)))}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return typing.cast(JsonValue, rng.choice(list(kind)).value)
    if kind is InputSpec:
        return {"shape": [3, 8, 8], "channel_order": "rgb", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    if kind is Verdict:
        return {"samples": 128, "float_correct": 9, "lost": 1, "gained": 2, "agreement": 0.5, "sqnr_db": 30.0}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        return {field.name: example(hints[field.name], rng, wild) for field in dataclasses.fields(kind)}
    return _plain(kind, rng, wild)


def _several(arguments: tuple[object, ...], rng: random.Random, wild: float) -> JsonValue:
    if (len(arguments) == 2 and arguments[1] is Ellipsis) or len(arguments) == 1:
        return [
            example(arguments[0], rng, wild) for _ in range(rng.choice((1, 1, 2, 3) if rng.random() < 0.8 else (0, 40)))
        ]
    return [example(argument, rng, wild) for argument in arguments]


def _plain(kind: object, rng: random.Random, wild: float) -> JsonValue:
    if kind is bool:
        return rng.random() < 0.5
    if kind is int:
        return (
            rng.choice((0, 0, 2**53, 2**31, -1, 2**63)) if rng.random() < wild else rng.choice((1, 2, 4, 8, 100, 5000))
        )
    if kind is float:
        extremes = (0.0, 0.0, 1.0, 1e-300, 1e18, 1e9, -1.0, -1e18, 1e300)
        return rng.choice(extremes) if rng.random() < wild else round(rng.uniform(0.01, 1), 4)
    if kind in (str, Path):
        return _text(rng, wild)
    others: tuple[JsonValue, ...] = (None, 1, "a", [1], {"a": 1})
    return None if kind is type(None) else rng.choice(others)


def _text(rng: random.Random, wild: float) -> str:
    if rng.random() < wild:
        return rng.choice(("", "a\nb", "\x1b[31m", "x" * 5000, "\u202e", "<script>", "|", "`", "$x", "../..", "\u0300"))
    return rng.choice(("net", "source", "magnitude", "to_onnx", "onnxruntime 1.17", "torch 2.14", "layer1.0.conv1"))


def odd_document(document: JsonValue, rng: random.Random) -> bytes:
    """The text of a document with a few fields changed, taken away or added, or with the text itself damaged."""
    document = json.loads(json.dumps(document))
    chance = rng.random()
    for _ in range(0 if chance < 0.15 else rng.choice((1, 1, 1, 2, 4))):
        document = _changed(document, rng)
    text = json.dumps(document, ensure_ascii=rng.random() < 0.8)
    if chance > 0.85:
        return mutated(text.encode("utf-8", "surrogatepass"), rng, _TOKENS)
    if chance > 0.8:
        return _whole(text, rng)
    return text.encode("utf-8", "surrogatepass")


def _changed(document: JsonValue, rng: random.Random) -> JsonValue:
    """One field somewhere is another one."""
    places = list(_places(document))
    if not places or rng.random() < 0.02:
        return _odd(rng)
    holder, key = rng.choice(places)
    change = rng.randrange(6)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[rng.choice(("extra", "", "\ud800", "a" * 1000, "__class__"))] = _odd(rng)
    elif change == 2 and isinstance(holder, list):
        holder.extend([holder[key]] * rng.choice((1, 3, 2000)))
    else:
        holder[key] = _odd(rng)
    return document


def _odd(rng: random.Random) -> JsonValue:
    return typing.cast(
        JsonValue, copy.deepcopy(rng.choice(ODD_VALUES))
    )  # what is put into one document is changed there


def _places(value: JsonValue) -> Iterator[tuple[typing.Any, typing.Any]]:
    """Every field: what holds it, and its key or number."""
    if isinstance(value, dict | list):
        for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(item)


_NESTS: tuple[Callable[[str, int], str], ...] = (
    lambda text, n: "[" * n + text + "]" * n,
    lambda text, n: '{"a":' * n + text + "}" * n,
    lambda text, n: text[:-1] + ',"deep":' + "[" * n + "]" * n + "}",
)


def _whole(text: str, rng: random.Random) -> bytes:
    """The whole text as something else."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(_NESTS)(text, rng.choice((10, 65, 1100, 100_000))).encode()
    if kind == 1:
        return text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")), "surrogatepass")
    if kind == 2:
        return text[: rng.randrange(len(text) + 1)].encode("utf-8", "surrogatepass")
    if kind == 3:
        return (text[:-1] + ', "schema_version": 1}').encode("utf-8", "surrogatepass")
    if kind == 4:
        return (text[:-1] + f', "n": {rng.choice(("-", ""))}{"9" * rng.choice((20, 401, 5000, 2_000_000))}}}').encode(
            "utf-8", "surrogatepass"
        )
    if kind == 5:
        return (text[:-1] + ', "many": [' + "0," * rng.choice((3000, 3_000_000)) + "0]}").encode(
            "utf-8", "surrogatepass"
        )
    if kind == 6:
        return rng.choice((b"", b" ", b"null", b"[]", b"{}", b'"a"', b"1", b"\xff\xfe", b"{" * 70, b"\0" * 100))
    return (text + text).encode("utf-8", "surrogatepass")
