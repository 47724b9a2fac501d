"""The commit of a repository, read from its files.

Git itself is not asked: the programs that it runs for a status (fsmonitor, filters, hooks) are named by the repository,
which may be a stranger's.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["head_commit"]

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")  # SHA-1 or SHA-256
_REFERENCE = re.compile(r"ref: (refs/[\w./@+-]+)")
_POINTER_BYTES = 4096  # of HEAD, a reference or a `gitdir:` file: a path or a hash
_PACKED_BYTES = 16 << 20  # about 250,000 references


def head_commit(folder: Path) -> str | None:
    """Full hash of the commit checked out where `folder` lies; None outside a repository or without commits."""
    try:
        git = next(filter(None, map(_git_folder, [folder, *folder.parents])), None)
        return None if git is None else _commit(git)
    except (OSError, ValueError):  # not readable, not text
        return None


def _git_folder(folder: Path) -> Path | None:
    """The `.git` of `folder`: a folder, or, in a worktree or submodule, the one that a file of that name points to."""
    git = folder / ".git"
    if git.is_file():
        return folder / _text(git).removeprefix("gitdir:").strip()
    return git if git.is_dir() else None


def _commit(git: Path) -> str | None:
    head = _text(git / "HEAD").strip()
    reference = _REFERENCE.fullmatch(head)
    if reference is None:
        return head if _COMMIT.fullmatch(head) else None
    name = reference[1]
    if ".." in name:
        return None
    shared = git / _text(git / "commondir").strip() if (git / "commondir").is_file() else git
    loose = next((folder / name for folder in (git, shared) if (folder / name).is_file()), None)
    commit = _text(loose).strip() if loose else _packed(shared / "packed-refs", name)
    return commit if commit and _COMMIT.fullmatch(commit) else None


def _packed(path: Path, name: str) -> str | None:
    if not path.is_file():
        return None
    lines = (line.split() for line in _text(path, _PACKED_BYTES).splitlines())
    return next((parts[0] for parts in lines if parts[1:] == [name]), None)


def _text(path: Path, limit: int = _POINTER_BYTES) -> str:
    with path.open("rb") as stream:
        return stream.read(limit).decode()
