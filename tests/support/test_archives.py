"""Zip archives that say of themselves what no honest one says."""

from __future__ import annotations

import io
import struct
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.support.archives import UnsafeArchive, checked_members

MOST = 1 << 30


def archive(members, method=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def check(content: bytes, most: int = MOST):
    return checked_members(io.BytesIO(content), most)


def declared(content: bytes, size: int) -> bytes:
    """The same with another unpacked size in the table of contents."""
    place = content.index(b"PK\1\2") + 24
    return content[:place] + struct.pack("<L", size) + content[place + 4 :]


def overlapping(count: int) -> bytes:
    """Members that are all made of the same bytes."""
    content = bytes(1000)
    whole = archive([("a", content)])
    start = whole.index(b"PK\1\2")
    entry = whole[start : whole.index(b"PK\5\6")]
    entries = b"".join(entry.replace(b"a", bytes([98 + number])) for number in range(count))
    return whole[:start] + entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(entries), start, 0)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_honest_archives(method):
    assert check(archive([("a", b"abc"), ("b/c", bytes(1 << 20))], method)) == {"a": 3, "b/c": 1 << 20}


def test_what_numpy_and_torch_write():
    for save in (
        lambda buffer: np.savez(buffer, images=np.zeros((9, 8, 8))),
        lambda buffer: np.savez_compressed(buffer, images=np.zeros((9, 8, 8))),
        lambda buffer: torch.save({"w": torch.ones(1000)}, buffer),
        lambda buffer: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer),
    ):
        buffer = io.BytesIO()
        save(buffer)
        assert check(buffer.getvalue())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b"PK\5\6", "truncated"),
        (archive([("a", b"x" * 100)])[:-30], "truncated"),
        (archive([("a", bytes(2 << 20)), ("b", bytes(2 << 20))]), "more than 0.00292969 GiB"),
        (declared(archive([("a", b"x" * 100)]), 1 << 20), "says that they unpack to 1048576"),
        (declared(archive([("a", b"x" * 100)], zipfile.ZIP_STORED), 101), "says that they unpack to 101"),
        (archive([("a", b"x" * 100)], zipfile.ZIP_BZIP2), "other means than Deflate"),
        (overlapping(3), "lie over one another"),
        (b"prefix" + archive([("a", b"x" * 100)]), "not where it says"),
    ],
    ids=["empty", "end alone", "cut", "two", "ratio", "size", "bzip2", "overlapping", "prefix"],  # bytes hold the time
)
def test_what_is_refused(content, reason):
    with pytest.raises(UnsafeArchive, match=reason):
        check(content, 3 << 20)


def test_large_members_may_not_be_dense():
    content = archive([("a", bytes(1 << 20))])  # 1000 : 1
    assert check(content) == {"a": 1 << 20}
    padded = archive([("a", np.random.default_rng(0).bytes(1 << 20))])  # so many bytes may be 257 MiB by their number
    with pytest.raises(UnsafeArchive, match="unpack to"):
        check(declared(padded, 257 << 20), 1 << 40)


def test_members_of_one_name():
    with pytest.warns(UserWarning, match="Duplicate"):
        content = archive([("a", b"1"), ("a", b"2")])
    with pytest.raises(UnsafeArchive, match="one name"):
        check(content)


def test_a_table_of_contents_that_is_too_long():
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, 40 << 20, 0, 0)
    with pytest.raises(UnsafeArchive, match="table of contents"):
        check(bytes(1000) + end)


VALID = archive([("images.npy", b"x" * 300), ("labels.npy", bytes(300))])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6), st.binary(max_size=40))
def test_any_bytes_are_an_archive_within_the_limit_or_refused(changes, tail):
    content = bytearray(VALID)
    for place, value in changes:
        content[place] = value
    with suppress(UnsafeArchive):
        assert sum(check(bytes(content) + tail).values()) <= MOST
