"""Malformed data sets: tables, archives of arrays, folders of pictures, class maps, and options of all of them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from robustness_case import Case, generated, mutated, write
from robustness_zip import archived, archived_wrongly

from compress.core.artifact import InputSpec
from compress.core.errors import ConfigError
from compress.data import DataConfig, load_splits
from compress.data.splits import require_classes

__all__ = ["data_sets"]

_CONFIG: TypeAdapter[DataConfig] = TypeAdapter(DataConfig)
_INPUT = InputSpec((3, 8, 8), "rgb", (0.0,) * 3, (1.0,) * 3)
_OUTPUTS = 10
_FEW = {"calibration": 2, "validation": 1}
_NUMBERS = (-1, 0, 9, 10, 255, 2**20, 2**31 - 1, 2**31, 10**9, 2**63 - 1, 2**63, 10**30, -(10**9))


def _opened(options: dict[str, object]) -> Callable[[], object]:
    """What a run does with the options of a data set."""

    def run() -> int:
        try:
            config = _CONFIG.validate_python({**_FEW, **options})
        except ValidationError as error:
            raise ConfigError(f"data: {error.errors()[0]['msg']}") from error
        splits = load_splits(config, _INPUT)
        require_classes(splits, _OUTPUTS)
        splits.describe()
        for split in (splits.calibration, splits.validation, splits.evaluation):
            sum(len(batch.labels) for batch in split.batches(4))
        return 0

    return run


def _saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


_PICTURE = _saved(Image.new("RGB", (8, 8), (1, 2, 3)))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))


def _png(width: int, height: int, depth: int = 8, colours: int = 2, pixels: bytes = b"") -> bytes:
    header = struct.pack(">LLBBBBB", width, height, depth, colours, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<LHHL", 54, 0, 0, 54) + struct.pack("<LllHHLLllLL", 40, width, height, 1, 24, *[0] * 6)


_SIDES = (0, 1, 8, 9000, 13_344, 30_000, 65_535, 2**31 - 1)

_PICTURES: dict[str, Callable[[random.Random], bytes]] = {
    "bomb": lambda r: _png(r.choice(_SIDES), r.choice(_SIDES), pixels=bytes(r.choice((0, 100, 1_000_000)))),
    "large": lambda r: _saved(Image.new("L", (r.choice((9000, 13_500)), r.choice((9000, 13_500))))),
    "narrow": lambda r: _saved(Image.new("L", r.choice(((1, 60_000), (60_000, 1), (2, 40_000))))),
    "depth": lambda r: _png(8, 8, r.choice((1, 2, 4, 16, 3, 0)), r.choice((0, 2, 3, 4, 6, 7)), bytes(2000)),
    "bmp": lambda r: _bmp(r.choice((-1, *_SIDES)), r.choice((-8, *_SIDES[:-1]))),
    "ppm": lambda r: b"P%d %d %d 255\n" % (r.choice((1, 2, 3, 5, 6, 7)), r.choice(_SIDES), r.choice(_SIDES)),
    "pgm number": lambda r: b"P5 " + b"9" * r.choice((10, 5000)) + b" 8 255\n",
    "gif": lambda r: b"GIF89a" + struct.pack("<HHBBB", r.choice(_SIDES) & 0xFFFF, 65_535, 0, 0, 0) + b",",
    "mode": lambda r: _saved(Image.new(r.choice(("1", "L", "LA", "P", "RGBA", "I;16")), (8, 8))),
    "tiff": lambda r: mutated(_saved(Image.new("RGB", (8, 8)), "TIFF"), r, (b"\xff" * 4, b"\0" * 4), 3),
    "jpeg": lambda r: mutated(_saved(Image.new("RGB", (8, 8)), "JPEG"), r, (b"\xff\xd8", b"\xff" * 4), 3),
    "webp": lambda r: mutated(_saved(Image.new("RGB", (8, 8)), "WEBP"), r, (b"RIFF", b"\xff" * 4), 3),
    "mutated": lambda r: mutated(_PICTURE, r, (b"IDAT", b"IEND", b"\xff" * 4, b"\0" * 8)),
    "text": lambda r: (
        _PICTURE[:33] + _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(r.choice((10, 80 << 20))))) + _PICTURE[33:]
    ),
    "other": lambda r: r.choice((b"", b"%!PS\nshowpage", b"<svg/>", bytes(100), b"PK\3\4", b"\x7fELF")),
}


def _pictures(rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(sorted(_PICTURES))
    return kind, _PICTURES[kind](rng)


def _folder(rng: random.Random) -> Case:
    kind, content = _pictures(rng)
    files = {f"photos/{name}/{number}.png": _PICTURE for name in ("cat", "dog") for number in range(4)}
    if rng.random() < 0.5:
        files = dict.fromkeys(files, content)
    files[f"photos/cat/0.{rng.choice(('png', 'jpg', 'bmp', 'tif', 'PNG'))}"] = content
    options: dict[str, object] = {"kind": "image_folder", "train": "photos"}
    options["resize"] = rng.choice((None, None, 8, 9, 200, 10_000, 10**9, 0))
    if rng.random() < 0.5:
        options |= {"class_map": "map.json"}
        files["map.json"] = _map(rng)
    return Case(f"folder: {kind}", write(files), _opened(options))


def _map(rng: random.Random) -> bytes:
    entries = ('"cat": %s, "dog": 1', '"0": ["cat", "x"], "%s": ["dog"]', '"cat": "%s", "dog": 1')
    return ("{" + rng.choice(entries) % rng.choice((*_NUMBERS, "9" * 5000, "x", "1e999", "NaN")) + "}").encode()


def _table(rng: random.Random) -> Case:
    label = str(rng.choice((*_NUMBERS, "9" * 5000, "٣", "1_0", " 3 ", "1.0", "", "nan", "0x1", "\0")))
    rows = [f"{number}.png,{number % 3}" for number in range(8)]
    rows[rng.randrange(8)] = f"{rng.randrange(8)}.png,{label}"
    text = "\n".join(["path,label", *rows]).encode("utf-8", "surrogatepass")
    kind = rng.choice(("label", "label", "mutated", "wide", "long", "quote", "repeated"))
    if kind == "mutated":
        text = mutated(text, rng, (b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"9" * 5000))
    elif kind == "wide":
        text = b"path,label" + b",x" * rng.choice((1000, 3_000_000)) + b"\n0.png,0" + b",1" * 1000
    elif kind == "long":
        text += b"\n0.png," + b"9" * rng.choice((140_000, 30_000_000))
    elif kind == "quote":
        text += b'\n"' + b"x\n" * rng.choice((1000, 1_000_000))
    elif kind == "repeated":
        text += b"\n0.png,0" * rng.choice((1000, 50_000))
    files = {f"{number}.png": _PICTURE for number in range(8)} | {"table.csv": text}
    options = {"kind": "csv", "file": "table.csv", "classes": rng.choice((None, None, 3, 10, 2**20, 10**9, -1))}
    return Case(f"csv {kind}: {label[:20]}", write(files), _opened(options))


def _array(header: str, content: bytes, version: bytes = b"\1\0") -> bytes:
    text = header.encode("latin-1", "replace") + b"\n"
    length = struct.pack("<H" if version == b"\1\0" else "<L", len(text) & 0xFFFF)
    return b"\x93NUMPY" + version + length + text + content


def _stored(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


_TYPES = (
    "|u1",
    "<f4",
    ">f2",
    "<i8",
    "|b1",
    "<c8",
    "<U1000000000",
    "|V1000000000",
    "|S9",
    "|O",
    "<M8[D]",
    "|V0",
    "x",
    "",
)
_SHAPES = ("(12, 8, 8, 3)", "(10**9,)", "(1000000000, 8, 8, 3)", "(9223372036854775807, 2)", "(-12, 8, -8, 3)", "()")
_SHAPES += (
    "(12,",
    "((((",
    "(" * 3000,
    "(12, 0, 8, 3)",
    "(True, 8)",
    "(1.5,)",
    "[12]",
    "(" + "9" * 4000 + ",)",
    "-" * 9000,
)


def _header(rng: random.Random) -> bytes:
    text = f"{{'descr': '{rng.choice(_TYPES)}', 'fortran_order': {rng.choice(('False', 'True', '1'))}, "
    text += f"'shape': {rng.choice(_SHAPES)}, }}"
    if rng.random() < 0.2:
        text = mutated(text.encode(), rng, (b"(", b"'", b",", b"{", b"9" * 50)).decode("latin-1")
    return _array(text, bytes(2304), rng.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\x09\0")))


def _arrays(rng: random.Random) -> Case:
    images = np.zeros((12, 8, 8, 3), np.uint8)
    labels = np.arange(12) % 3
    members = {"images.npy": _stored(images), "labels.npy": _stored(labels)}
    kind = rng.choice(("zip", "zip", "header", "header", "label", "values", "bytes"))
    content = archived(members)
    if kind == "zip":
        inner, content = archived_wrongly(members, rng)
        kind = f"zip {inner}"
    elif kind == "header":
        content = archived({**members, rng.choice(sorted(members)): _header(rng)})
    elif kind == "label":
        number = rng.choice([one for one in _NUMBERS if abs(one) < 2**63])
        wrong = np.full(12, number, np.int64).astype(rng.choice((np.int64, np.uint64, np.float64, object)))
        content = archived({**members, "labels.npy": _stored(wrong)})
    elif kind == "values":
        other = np.full(
            (12, 8, 8, 3), rng.choice((np.nan, np.inf, 2.0, -1.0, 0.5)), rng.choice((np.float16, np.float64))
        )
        content = archived({**members, "images.npy": _stored(other)})
    elif kind == "bytes":
        content = mutated(content, rng, (b"PK\1\2", b"PK\5\6", b"\xff" * 8, b"\0" * 8))
    options = {"kind": "npz", "file": "a.npz", "classes": rng.choice((None, None, 3, 2**20, 10**9))}
    return Case(f"npz {kind}", write({"a.npz": content}), _opened(options))


def data_sets(count: int, seed: int) -> Iterator[Case]:
    """Data sets."""
    return generated(count, seed, lambda rng: rng.choice((_folder, _table, _arrays, _arrays))(rng))
