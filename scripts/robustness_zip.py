"""Archives with something wrong in their table of contents, or that unpack to far more than they are."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping

__all__ = ["archived", "archived_wrongly"]

Members = Mapping[str, bytes]


def archived(members: Members, method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive as PyTorch and NumPy write them."""
    return _archived(list(members.items()), method)


def _archived(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as file:
        warnings.simplefilter("ignore")  # about names that come twice
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def archived_wrongly(members: Members, rng: random.Random) -> tuple[str, bytes]:
    """The name of a kind, and an archive of it."""
    kind = rng.choice(sorted(_KINDS))
    return kind, _KINDS[kind](members, rng)


def _one(members: Members, rng: random.Random) -> str:
    return rng.choice(sorted(members))


def _bomb(members: Members, rng: random.Random) -> bytes:
    """A member of zeros: a thousand times smaller in the file."""
    name, size = _one(members, rng), rng.choice((1 << 20, 1 << 20, 300 << 20))
    return archived({**members, name: bytes(size)}, zipfile.ZIP_DEFLATED)


def _bombs(members: Members, rng: random.Random) -> bytes:
    extra = {f"{_one(members, rng)}{number}": bytes(8 << 20) for number in range(rng.choice((2, 20)))}
    return archived({**members, **extra}, zipfile.ZIP_DEFLATED)


def _declared(members: Members, rng: random.Random) -> bytes:
    """Another unpacked size, of one member, in the table of contents or before the member as well."""
    content = archived(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    size = struct.pack("<L", rng.choice((0, 1, 1 << 20, 1 << 31, (1 << 32) - 2, (1 << 32) - 1)))
    marks = [(b"PK\1\2", 24)] + [(b"PK\3\4", 22)] * (rng.random() < 0.5)
    for mark, offset in marks:
        start = content.find(mark)
        content = content[: start + offset] + size + content[start + offset + 4 :]
    return content


def _twice(members: Members, rng: random.Random) -> bytes:
    name = _one(members, rng)
    return _archived([*members.items(), (name, rng.choice((b"", members[name], bytes(1000))))])


def _overlapping(members: Members, rng: random.Random) -> bytes:
    """Every member at the place of the first one."""
    content = archived(members, zipfile.ZIP_DEFLATED)
    place = content.find(b"PK\1\2")
    while place >= 0:
        content = content[: place + 42] + struct.pack("<L", 0) + content[place + 46 :]
        place = content.find(b"PK\1\2", place + 4)
    return content


def _prefixed(members: Members, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 100, 70_000))) + archived(members)


def _suffixed(members: Members, rng: random.Random) -> bytes:
    return archived(members) + rng.choice((b"\0", b"PK\5\6", rng.randbytes(100), archived({"a": b""})))


def _truncated(members: Members, rng: random.Random) -> bytes:
    content = archived(members)
    return content[: rng.randrange(len(content))]


def _without(members: Members, rng: random.Random) -> bytes:
    gone = _one(members, rng)
    return archived({name: content for name, content in members.items() if name != gone})


def _empty(members: Members, rng: random.Random) -> bytes:
    return archived({**members, _one(members, rng): b""})


def _other_method(members: Members, rng: random.Random) -> bytes:
    return archived(members, rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))


def _encrypted(members: Members, rng: random.Random) -> bytes:
    content = archived(members)
    start = content.find(b"PK\1\2")
    return content[: start + 8] + b"\1" + content[start + 9 :]


def _many(members: Members, rng: random.Random) -> bytes:
    return archived({**members, **{f"m/{number}": b"" for number in range(rng.choice((1000, 20_000)))}})


def _long_table(members: Members, rng: random.Random) -> bytes:
    content = archived(members)
    start = content.rfind(b"PK\5\6")
    lie = struct.pack("<2H2L", 0xFFFE, 0xFFFE, rng.choice((1 << 20, (1 << 32) - 2)), rng.choice((0, 1 << 31)))
    return content[: start + 8] + lie + content[start + 20 :]


def _names(members: Members, rng: random.Random) -> bytes:
    old = _one(members, rng)
    new = rng.choice(("../x", "/etc/passwd", "a\nb", "\x1b[31m", "x" * 60_000, "/", old.upper(), old + "/"))
    return archived({(new if name == old else name): content for name, content in members.items()})


def _turned(members: Members, rng: random.Random) -> bytes:
    """Bits turned over anywhere."""
    content = bytearray(archived(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))))
    for _ in range(rng.choice((1, 3, 30))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


_KINDS: dict[str, Callable[[Members, random.Random], bytes]] = {
    "bomb": _bomb,
    "bombs": _bombs,
    "declared size": _declared,
    "twice": _twice,
    "overlapping": _overlapping,
    "prefixed": _prefixed,
    "suffixed": _suffixed,
    "truncated": _truncated,
    "without": _without,
    "empty": _empty,
    "method": _other_method,
    "encrypted": _encrypted,
    "many": _many,
    "long table": _long_table,
    "names": _names,
    "turned": _turned,
}
