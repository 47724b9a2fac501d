"""Whatever a text is, the reader gives plain values of bounded number and depth, or one line."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass

import pytest
from doubles import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compress.core.errors import StageError
from compress.support.plain_json import MOST_VALUES, NotJson, parse_json
from compress.support.plain_yaml import fits
from compress.support.serialize import from_json

PACKAGE = ROOT / "compress"

REFUSED = {
    "syntax": ("{", "it is not JSON: .*, line 1, column 2"),
    "two documents": ("{} {}", "it is not JSON: Extra data"),
    "NaN": ('{"a": NaN}', "NaN is not a number in JSON"),
    "infinity": ("[-Infinity]", "-Infinity is not a number in JSON"),
    "too large": ("[1e999]", "the number 1e999 is larger than any float"),
    "wide": ("[18446744073709551616]", "does not fit 64 bits"),
    "digits": ("9" * 5000, "a number of 5,000 digits"),
    "million digits": ("9" * 2_000_000, "a number of 2,000,000 digits"),
    "long float": ("0." + "1" * 5000, "a number of 5,002 digits"),
    "twice": ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' comes twice"),
    "depth": ("[" * 65 + "]" * 65, "nested more than 64 deep"),
    "objects": ('{"a":' * 100_000, "nested more than 64 deep"),
    "depth after texts": ('["[\\"[", "\\\\",' + "[" * 64 + "]" * 65, "nested more than 64 deep"),
    "many": ("[" + "0," * MOST_VALUES + "0]", "more than 2,000,000 values"),
    "many empty": ("[" + "[]," * MOST_VALUES + "0]", "more than 2,000,000 values"),
    "half": ('["\\ud800"]', r"the text '\\ud800' has half of a surrogate pair"),
    "half of a key": ('{"\\udfff": 1}', "half of a surrogate pair"),
    "two bytes": ('{"a": 1}'.encode("utf-16"), r"it is not UTF-8 text \(byte 0\)"),
    "encoded half": (b'["\xed\xa0\x80"]', r"it is not UTF-8 text \(byte 2\)"),
    "control": ('["a\nb"]', "it is not JSON: Invalid control character"),
    "comment": ("{} // a", "it is not JSON"),
    "empty": (b"", "it is not JSON: Expecting value"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_more_than_plain_values_is_one_clause(kind):
    text, message = REFUSED[kind]
    started = time.process_time()
    with pytest.raises(NotJson, match=message) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ("[" * 64 + "]" * 64, None),
        ('["[[[[\\"{", "\\\\"]', ['[[[["{', "\\"]),
        ('["\\ud83d\\ude00"]', ["\U0001f600"]),
        ("18446744073709551615", 2**64 - 1),
        ("-1e-400", 0.0),
        ('{"a": {"a": 1}}', {"a": {"a": 1}}),
        ('"NaN"', "NaN"),
    ],
)
def test_plain_values_are_read(text, value):
    read = parse_json(text)
    assert value is None or read == value


def plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(plain(key) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    if isinstance(value, str):
        return value.encode().decode() == value
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool) or (isinstance(value, int) and fits(value))


TOKENS = st.sampled_from(
    [
        *("[", "]", "{", "}", ",", ":", '"a":', '"b":', '"', "\\", "\\ud800", "\\u00e4", "null", "true", "1", "-"),
        *("NaN", "Infinity", "1e999", "9" * 500, "\n", "\0", "\ud800", "\ufeff", "[" * 70, '{"a":' * 70, "/"),
        *('{"a":1,', "1.5"),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


def check(text: str) -> None:
    try:
        value = parse_json(text)
    except NotJson as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017  either is right
        return
    assert plain(value)
    assert repr(json.loads(text)) == repr(value)


@settings(max_examples=300, deadline=None)
@given(st.lists(TOKENS, max_size=20).map("".join) | VALUES.map(json.dumps))
@example('{"a": 1, "a": 1}')
def test_any_text_is_plain_values_or_one_clause(text):
    check(text)


@pytest.mark.slow
@settings(max_examples=30_000, deadline=None)
@given(st.lists(TOKENS, max_size=20).map("".join) | VALUES.map(json.dumps))
def test_many_texts_are_plain_values_or_one_clause(text):
    check(text)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_law_what_json_writes_strictly_is_read_back(value):
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, UnicodeEncodeError):
        return
    if plain(value):
        assert parse_json(text) == value


@dataclass(frozen=True)
class Pair:
    first: int
    second: tuple[float, ...]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"first": "x", "second": []}', "not a valid Pair document: first is 'x': Input should be a valid integer"),
        (b'{"first": 1}', "not a valid Pair document: second: Field required"),
        (b'{"first": 1, "second": [1, null]}', r"second\.1 is null: Input should be a valid number"),
        (b'{"first": 1, "second": {"a": 1}}', "second is an object of 1 fields: Input should be a valid tuple"),
        (b'{"first": 1, "first": 1}', "not a valid Pair document: the key 'first' comes twice"),
        (b"[1, 2]", "not a valid Pair document: the whole is a list of 2: Input should be"),
    ],
)
def test_a_field_that_does_not_fit_is_named_with_what_it_is(content, message):
    with pytest.raises(StageError, match=message) as caught:
        from_json(Pair, content)
    assert "\n" not in str(caught.value)


READERS = re.compile(r"json\.loads?\(|validate_json|from json import")


def test_every_document_comes_in_by_this_door():
    """Boards have a standard library only: what the agent reads, it checks itself."""
    modules = [path for path in PACKAGE.rglob("*.py") if "agent" not in path.parts]
    found = {path.stem: READERS.findall(path.read_text()) for path in modules}
    assert {name: calls for name, calls in found.items() if calls} == {"plain_json": ["json.loads("]}
