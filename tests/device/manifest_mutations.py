"""Manifests as strangers write them: a good one with fields of other types, sizes and contents, and bytes changed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator

Path = tuple[str | int, ...]

ODD = (
    None,
    True,
    False,
    0,
    1,
    -1,
    1.5,
    -0.0,
    1e308,
    10**18,
    10**39,
    "",
    "x",
    "é",
    "../x",
    "/etc/passwd",
    "a/b",
    "C:/x",
)
ODD += ("\x00", "\n", "\x1b[2J", "\u2028", "\u202e", "x" * 300, "x" * 100_000, "☃.onnx", "net.onnx", "manifest.json")
ODD += ([], {}, [[]], [None], [1, 2, 3], ["net"], {"any": {}}, {"": ""}, {"any": {"abs_error": -1}}, [[[[]]]], "0" * 64)

TEXTS = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"NaN",
    b'"text"',
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b"{}" * 2,
    b"[" * 200_000,
    b'{"a":' * 100_000,
    b"[" * 900 + b"]" * 900,
    b"9" * 1_000_000,
    b'{"schema_version": 1}',
    b'{"schema_version": 2}',
    b'{"schema_version": true}',
    b'{"schema_version": 1e0}',
    b'{"schema_version": ' + b"9" * 5000 + b"}",
    b'{"files": [' + b"{}," * 50_000 + b"{}]}",
)
"""Whole documents that are none."""

SPLICES = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000, b'"\\ud800"', b'"\\udc00\\ud800"', b"0x10", b"01")
SPLICES += (b"1.", b"'x'", b"undefined", b'{"a": 1, "a": 2}', b"[" * 5000, b'"\x01"', b'"\xff"', b"// x\n1", b"1,")
"""What stands in place of a value in the text: no JSON, or JSON that nobody should read."""


def paths(value: object, path: Path = ()) -> Iterator[Path]:
    """Every value in a document, the document itself first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*path, key))


def replaced(document: dict, path: Path, value: object) -> object:
    """The document with another value at `path`."""
    if not path:
        return value
    changed = copy.deepcopy(document)
    entry = changed
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    return changed


def without(document: dict, path: Path) -> object:
    changed = copy.deepcopy(document)
    entry = changed
    for key in path[:-1]:
        entry = entry[key]
    del entry[path[-1]]
    return changed


def spliced(document: dict, path: Path, text: bytes) -> bytes:
    mark = "0d3a9b5e mark"
    return json.dumps(replaced(document, path, mark)).encode().replace(json.dumps(mark).encode(), text)


def doubled(document: dict, path: Path) -> bytes:
    """With the key at `path` written twice, the second time with null."""
    key = json.dumps(path[-1]).encode()
    return spliced(document, path, b"null, " + key + b": null")


def flipped(content: bytes, random_: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random_.randint(1, 4)):
        changed[random_.randrange(len(changed))] = random_.randrange(256)
    return bytes(changed)


def mutate(document: dict, seed: int) -> bytes:
    """One malformed manifest, always the same for a seed; now and then a harmless one."""
    random_ = random.Random(seed)
    place = random_.choice([path for path in paths(document) if path])
    kind = random_.randrange(10)
    if kind < 4:
        return json.dumps(replaced(document, place, random_.choice(ODD))).encode()
    if kind == 4:
        return json.dumps(without(document, place)).encode()
    if kind == 5 and isinstance(place[-1], str):
        return doubled(document, place)
    if kind == 6:
        return flipped(json.dumps(document).encode(), random_)
    if kind == 7:
        return random_.choice(TEXTS)
    return spliced(document, place, random_.choice(SPLICES))
