"""Blocks that a page is made of; the template knows how each of these looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from compress.report.columns import Cell, Head
from compress.report.html.plot import Plot

__all__ = ["Block", "Facts", "Page", "Plots", "Prose", "Section", "Source", "Table", "Tile"]


@dataclass(frozen=True)
class Table:
    """Rows under heads; the first cell of a row names it.

    Attributes:
        folded: shown when asked for, behind its caption.
    """

    caption: str
    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Plots:
    """Pictures side by side where there is room; `small` ones stand closer, those with a `summary` behind it."""

    plots: Sequence[Plot]
    small: bool = False
    summary: str = ""
    kind: str = field(default="plots", init=False)


@dataclass(frozen=True)
class Facts:
    """Names and what is to be said about each."""

    pairs: Sequence[tuple[str, str]]
    kind: str = field(default="facts", init=False)


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str
    kind: str = field(default="prose", init=False)


@dataclass(frozen=True)
class Source:
    """Text to be copied as it is; `folded` if it is long."""

    title: str
    text: str
    folded: bool = False
    kind: str = field(default="source", init=False)


Block: TypeAlias = Table | Plots | Facts | Prose | Source


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading; `slug` is its address."""

    slug: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Tile:
    """A figure at the top of the page: `before` is the source's, `change` says it in words."""

    title: str
    value: str
    before: str
    change: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page. Sections without blocks are left out."""

    title: str
    subtitle: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]

    @property
    def plots(self) -> list[Plot]:
        """Every plot in order."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [plot for block in blocks if isinstance(block, Plots) for plot in block.plots]
