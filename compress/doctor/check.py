"""One finding about this machine; needs nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Check", "Level"]


class Level(str, Enum):
    """`ok`; `note`, something is absent that the default job does without; `no`, something does not work."""

    OK = "ok"
    NOTE = "note"
    NO = "no"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Check:
    """Check of one thing: what was looked at and what was found.

    Attributes:
        group: heading it stands under.
        fix: what to type or change, where that helps.
        needed: the default job needs it.
    """

    group: str
    name: str
    level: Level
    text: str
    fix: str | None = None
    needed: bool = False

    @property
    def fatal(self) -> bool:
        """Tell whether the default job fails on this."""
        return self.needed and self.level is Level.NO
