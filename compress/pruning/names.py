"""Layers that a pattern of the user's means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from compress.core.errors import StageError, names_near

__all__ = ["enclosing", "matching", "matching_any", "require_matches"]


def enclosing(name: str) -> list[str]:
    """`layer1`, `layer1.0`, `layer1.0.conv1` for the last of them: what may be said to mean it."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def matching(names: Iterable[str], patterns: Sequence[str]) -> frozenset[str]:
    """The names that a pattern means, itself or through an enclosing module."""
    return frozenset(name for name in names if matching_any(enclosing(name), patterns))


def matching_any(names: Iterable[str], patterns: Sequence[str]) -> bool:
    """Tell whether any pattern means any of the names."""
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def require_matches(names: Iterable[str], patterns: Sequence[str], stage: str, option: str = "exclude") -> None:
    """Raise `StageError`, listing near names, for the first pattern that means nothing."""
    known = list(dict.fromkeys(part for name in names for part in enclosing(name)))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise StageError(
                f"stage {stage!r}: {option} pattern {pattern!r} matches no prunable layer",
                fix=names_near(pattern, known),
            )
