"""Sizes that a zip archive says that it unpacks to, read from its table of contents before anything is unpacked.

PyTorch's and NumPy's files are such archives. A few kilobytes may unpack to terabytes, in one member or, where members
lie over one another, in many (https://www.bamsoftware.com/hacks/zipbomb/).
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from typing import BinaryIO

__all__ = ["UnsafeArchive", "checked_members"]

_LARGEST_TABLE = 32 << 20
"""Bytes of a table of contents: 300,000 members, a hundred times those of the largest checkpoint seen."""
_MOST_DEFLATED = 1032
"""Bytes that one byte may stand for (the limit of Deflate: 258 bytes in 2 bits); more is a lie."""
_DENSE = 100
_SMALL = 256 << 20
"""Bytes of a member above which a ratio of more than `_DENSE` is refused: weights and pictures compress tenfold."""
_ENCRYPTED = 1
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_BYTES = 20
_LONGEST_COMMENT = 0xFFFF
_LOCAL = struct.Struct("<4s5H3L2H")


class UnsafeArchive(ValueError):
    """The archive is none, or says of itself what no honest one says; the message is a clause."""


def checked_members(stream: BinaryIO, most_bytes: int) -> dict[str, int]:
    """Sizes of the members of an archive, unpacked, in bytes; nothing is unpacked, and the stream is left anywhere.

    Args:
        most_bytes: of all members together.

    Raises:
        UnsafeArchive: it is damaged, larger, denser than Deflate can be, encrypted, or names or places overlap.
        OSError: it cannot be read.
    """
    _check_table(stream)
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            start = archive.start_dir
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise UnsafeArchive(f"it is no archive, or a damaged one: {error}") from error
    if sum(member.file_size for member in members) > most_bytes:
        raise UnsafeArchive(f"it unpacks to more than {most_bytes / 2**30:g} GiB")
    for member in members:
        _check_member(member)
    if len({member.filename for member in members}) < len(members):
        raise UnsafeArchive("two of its members have one name")
    _check_places(stream, members, start)
    return {member.filename: member.file_size for member in members}


def _check_member(member: zipfile.ZipInfo) -> None:
    name = repr(member.filename[:80])
    if member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS:
        raise UnsafeArchive(f"its member {name} is encrypted, or compressed by other means than Deflate")
    most = _MOST_DEFLATED * member.compress_size
    if member.compress_type == zipfile.ZIP_STORED:
        most = member.compress_size
    elif member.file_size > _SMALL:
        most = min(most, _DENSE * member.compress_size)
    if member.file_size > most:
        raise UnsafeArchive(
            f"its member {name} has {member.compress_size} bytes and says that they unpack to {member.file_size}"
        )


def _check_places(stream: BinaryIO, members: list[zipfile.ZipInfo], start: int) -> None:
    """Each member lies behind the one before it, and all before the table of contents."""
    end = 0
    for member in sorted(members, key=lambda entry: entry.header_offset):
        if member.header_offset < end:
            raise UnsafeArchive("its members lie over one another")
        stream.seek(member.header_offset)
        header = stream.read(_LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
            raise UnsafeArchive(f"its member {member.filename[:80]!r} is not where it says")
        *_, name, extra = _LOCAL.unpack(header)
        end = member.header_offset + _LOCAL.size + name + extra + member.compress_size
    if end > start:
        raise UnsafeArchive("its members lie over its table of contents")


def _check_table(stream: BinaryIO) -> None:
    """Refuse a table of contents that is too long to be read: an object is made for each entry."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, size - _END.size - _LONGEST_COMMENT - _END_64.size - _LOCATOR_BYTES))
    tail = stream.read()
    position = tail.rfind(b"PK\5\6")
    if position < 0 or position + _END.size > len(tail):
        raise UnsafeArchive("it is no archive, or a truncated one")
    *_, length, offset, _ = _END.unpack_from(tail, position)
    position_64 = position - _LOCATOR_BYTES - _END_64.size
    if position_64 >= 0 and tail.startswith(b"PK\6\6", position_64):
        position, (*_, length, offset) = position_64, _END_64.unpack_from(tail, position_64)
    if length > _LARGEST_TABLE:
        raise UnsafeArchive(f"its table of contents has {length} bytes, more than {_LARGEST_TABLE >> 20} MiB")
    if offset + length != size - len(tail) + position:  # readers disagree about what they find then
        raise UnsafeArchive("its table of contents is not where it says")
    stream.seek(0, os.SEEK_SET)
