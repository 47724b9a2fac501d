"""The golden file, an `.npz`: its arrays' headers are read and held against the manifest before anything is read whole.

The format is numpy's (numpy.lib.format); it is read here, not by numpy, so that what is checked is what is read.
"""

import os
import re
import struct
import zipfile
import zlib
from typing import NamedTuple, Sequence, Tuple

from .files import AGAIN
from .json_text import shown
from .values import Array, Json, Problem

LONGEST_HEADER = 4096  # bytes: numpy writes 118 for up to 9 dimensions
LARGEST_ARRAY = 1 << 30  # bytes
HEADER = re.compile(
    r"\{'descr': '([^']{1,20})', 'fortran_order': (True|False), "
    r"'shape': \((\d{1,18}(?:, \d{1,18})*,?|)\), \}\s*"
)
FLOAT32 = "<f4"
BROKEN = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError)


class Header(NamedTuple):
    """Header of one array: `start` is where its numbers begin in the member of the archive."""

    shape: Tuple[int, ...]
    fortran_order: bool
    start: int


def read_header(archive: zipfile.ZipFile, name: str) -> Header:
    """The header of a float32 array.

    Raises:
        ValueError: there is none of this name, or it is something else.
    """
    try:
        member = archive.getinfo(name + ".npy")
    except KeyError:
        raise ValueError("it has no array %s" % shown(name))
    with archive.open(member) as stream:
        start = stream.read(12)
        wide = start[6:7] != b"\1"  # version 1 has two bytes for the header's length, later ones four
        if start[:6] != b"\x93NUMPY" or len(start) < 12:
            raise ValueError("%s is not an array" % shown(name))
        (length,) = struct.unpack("<I" if wide else "<H", start[8:12] if wide else start[8:10])
        size = (12 if wide else 10) + length
        if size > LONGEST_HEADER:
            raise ValueError("%s has a header of %d bytes" % (shown(name), size))
        text = (start[12 if wide else 10 :] + stream.read(size - 12)).decode("latin-1")
    found = HEADER.fullmatch(text)
    if found is None or found.group(1) != FLOAT32:
        raise ValueError("%s is not an array of float32: %s" % (shown(name), shown(text.strip(), 120)))
    header = Header(
        tuple(int(part) for part in found.group(3).split(",") if part.strip()), found.group(2) == "True", size
    )
    expected = size + 4 * count(header.shape)
    if expected != member.file_size or expected > LARGEST_ARRAY:
        held = "is of shape %s and holds %d bytes" % (shown(header.shape), member.file_size)
        raise ValueError("%s %s; the most is %d MiB" % (shown(name), held, LARGEST_ARRAY >> 20))
    return header


def count(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def require_golden(folder: str, manifest: Json, models: Sequence[Json]) -> None:
    """Refuse golden inputs and outputs that are not what the models are compared with."""
    path = manifest["golden"]["path"]
    try:
        with zipfile.ZipFile(os.path.join(folder, path)) as archive:
            inputs = read_header(archive, "inputs").shape
            for model in models:
                if len(inputs) != 4 or inputs[0] < 1 or list(inputs[1:]) != model["sample_shape"]:
                    wanted = "n x %s of %s" % (" x ".join(map(str, model["sample_shape"])), model["stage"])
                    raise ValueError("'inputs' is of shape %s, not %s" % (shown(inputs), wanted))
                outputs = read_header(archive, model["stage"]).shape
                if len(outputs) < 2 or outputs[0] != inputs[0] or not count(outputs):
                    reason = "%s is of shape %s, for %d inputs" % (shown(model["stage"]), shown(outputs), inputs[0])
                    raise ValueError(reason)
    except BROKEN as error:
        raise Problem("%s cannot be used: %s" % (path, one_line(error)), AGAIN, 2)


def read_golden(folder: str, manifest: Json, model: Json) -> Tuple[Array, Array]:
    """Inputs [n, C, H, W] and the logits [n, classes] that the maker's machine computed with this very file."""
    path = manifest["golden"]["path"]
    try:
        with zipfile.ZipFile(os.path.join(folder, path)) as archive:
            return read_array(archive, "inputs"), read_array(archive, model["stage"])
    except BROKEN as error:
        raise Problem("%s cannot be read: %s" % (path, one_line(error)), AGAIN)


def read_array(archive: zipfile.ZipFile, name: str) -> Array:
    import numpy

    header = read_header(archive, name)
    content = archive.read(name + ".npy")
    values: Array = numpy.frombuffer(content, FLOAT32, offset=header.start)
    transposed = values.reshape(header.shape[::-1]).transpose() if header.fortran_order else None
    return (values.reshape(header.shape) if transposed is None else transposed).copy()


def one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
