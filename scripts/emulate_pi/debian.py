"""Debian packages without Debian: read the index, follow dependencies, unpack archives. No apt, no dpkg, no root.

The index comes over TLS, and every package is compared with the SHA-256 in it. Formats: deb(5), ar(5), deb822(5).
"""

from __future__ import annotations

import hashlib
import io
import lzma
import re
import tarfile
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Package", "closure", "fetch", "read_index", "unpack"]

_MIRROR = "https://deb.debian.org/debian"
_SUITE = "bookworm"  # Raspberry Pi OS is based on it; Python 3.11
_TIMEOUT_SECONDS = 60
_MERGED = ("bin", "sbin", "lib")  # since Debian 12 these are links into /usr


@dataclass(frozen=True)
class Package:
    """One entry of the index; `needs` are alternatives' first names."""

    name: str
    path: str
    sha256: str
    needs: tuple[str, ...]
    provides: tuple[str, ...]


def read_index(architecture: str) -> dict[str, Package]:
    """All packages of the main section, by name and by what they provide.

    Raises:
        OSError: the registry cannot be reached.
    """
    content = _download(f"dists/{_SUITE}/main/binary-{architecture}/Packages.xz")
    packages = [_package(stanza) for stanza in lzma.decompress(content).decode().split("\n\n") if stanza.strip()]
    provided = {virtual: package for package in packages for virtual in package.provides}
    return {**provided, **{package.name: package for package in packages}}


def closure(index: Mapping[str, Package], wanted: Iterable[str], without: frozenset[str]) -> list[Package]:
    """The wanted packages and everything they depend on, except those `without` (and what only those need)."""
    found: dict[str, Package] = {}
    left = list(wanted)
    while left:
        name = left.pop()
        if name in without or name not in index:
            continue
        package = index[name]
        if package.name not in found and package.name not in without:
            found[package.name] = package
            left.extend(package.needs)
    return sorted(found.values(), key=lambda package: package.name)


def fetch(package: Package) -> bytes:
    """The archive of a package, compared with the index.

    Raises:
        OSError: it cannot be fetched or is not what the index says.
    """
    content = _download(package.path)
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise OSError(f"{package.name}: its SHA-256 is not the one in the index")
    return content


def unpack(archive: bytes, root: Path) -> None:
    """Lay the files of a package below `root`, owned by whoever runs this.

    Raises:
        OSError: the file system refuses.
    """
    data = next(data for name, data in _members(archive) if name.startswith("data.tar"))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for entry in tar:
            if _lay(entry, root):
                tar.extract(entry, root, set_attrs=False, filter="fully_trusted")
                _permit(entry, root)


def _lay(entry: tarfile.TarInfo, root: Path) -> bool:
    """Bring an entry to the merged /usr layout; False for what cannot or need not be laid down."""
    parts = [part for part in entry.name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or entry.isdev():
        return False
    if parts[0] in _MERGED and len(parts) > 1:
        parts.insert(0, "usr")
    entry.name = "/".join(parts)
    if entry.islnk():
        target = [part for part in entry.linkname.split("/") if part not in ("", ".")]
        entry.linkname = "/".join(["usr", *target] if target[0] in _MERGED else target)
    return not (root / entry.name).is_symlink()


def _permit(entry: tarfile.TarInfo, root: Path) -> None:
    """For everyone to read; tarfile makes folders that only their owner may enter."""
    if entry.isdir() or entry.isfile():
        (root / entry.name).chmod(0o755 if entry.isdir() or entry.mode & 0o111 else 0o644)


def _members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of every member of an ar archive: a 60-byte header each, padded to even sizes."""
    position = len(b"!<arch>\n")
    while position + 60 <= len(archive):
        header = archive[position : position + 60]
        size = int(header[48:58])
        yield header[:16].decode().strip().rstrip("/"), archive[position + 60 : position + 60 + size]
        position += 60 + size + size % 2


def _package(stanza: str) -> Package:
    fields = dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", stanza, re.MULTILINE))
    needs = [*_names(fields.get("Pre-Depends", "")), *_names(fields.get("Depends", ""))]
    return Package(
        fields["Package"], fields["Filename"], fields["SHA256"], tuple(needs), tuple(_names(fields.get("Provides", "")))
    )


def _names(relation: str) -> list[str]:
    """`libc6 (>= 2.34), a | b` as `libc6`, `a`."""
    return [re.split(r"[ (:|]", entry.strip())[0] for entry in relation.split(",") if entry.strip()]


def _download(path: str) -> bytes:
    with urllib.request.urlopen(f"{_MIRROR}/{path}", timeout=_TIMEOUT_SECONDS) as answer:
        content: bytes = answer.read()
    return content
