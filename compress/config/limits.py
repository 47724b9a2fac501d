"""Limits of what a configuration may come to, checked before the parsers of Hydra and OmegaConf get it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from compress.core.errors import ConfigError
from compress.support.plain_yaml import fits

__all__ = ["bounded", "clipped", "require_little_work", "require_shallow", "values_in"]

_LONGEST_OVERRIDE = 1 << 16
_DEEPEST = 32
"""Brackets in one another, as in a YAML file; Hydra's grammar and its visitors recurse."""
_MOST_WORK = 1_000_000
"""Values that resolving the interpolations of a configuration may come to."""
_TEXT_PER_VALUE = 100  # characters of text that weigh as much as a value
_SHOWN = 200  # characters of an override in a message


def require_shallow(override: str) -> None:
    """Refuse an override that Hydra's parser would take too long or too deep for.

    Raises:
        ConfigError: it is too long, or brackets in it are nested too deep.
    """
    if len(override) > _LONGEST_OVERRIDE:
        raise ConfigError(f"the override {clipped(override)} has more than {_LONGEST_OVERRIDE:,} characters")
    deepest = max(
        itertools.accumulate((character in "[({") - (character in "])}") for character in override), default=0
    )
    if deepest > _DEEPEST:
        raise ConfigError(f"the override {clipped(override)} is nested more than {_DEEPEST} deep")


def bounded(value: object) -> bool:
    """Tell whether every integer in an override's value fits 64 bits."""
    if isinstance(value, int):
        return fits(value)
    if isinstance(value, Mapping):
        return all(map(bounded, value.values()))
    return not isinstance(value, list) or all(map(bounded, value))


def clipped(text: str) -> str:
    """A text in quotes for a message, its end left off where it is long."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def require_little_work(tree: object) -> None:
    """Refuse interpolations that could multiply: `b: ${a}${a}`, `c: ${b}${b}` and so on double a text with each line.

    So many references, in the worst arrangement, make 3^(n/3) of what is referred to (the largest product of numbers
    whose sum is n). A recipe has a handful.

    Raises:
        ConfigError: there are too many for the size of what they could refer to.
    """
    texts: list[str] = []
    nodes = _count(tree, texts)
    references = sum(text.count("${") for text in texts)
    weight = nodes + sum(map(len, texts)) / _TEXT_PER_VALUE
    if weight * 3 ** (references / 3) > _MOST_WORK:
        raise ConfigError(
            f"configuration: {references} interpolations in {nodes} values could come to more than {_MOST_WORK:,}",
            fix="write values instead of ${...}",
        )


def values_in(tree: object) -> int:
    """Number of values below `tree`, itself included."""
    return _count(tree, [])


def _count(tree: object, texts: list[str]) -> int:
    """Number of values below `tree`, itself included; its texts are added to `texts`."""
    if isinstance(tree, Mapping):
        return 1 + sum(_count(value, texts) for value in tree.values())
    if isinstance(tree, list):
        return 1 + sum(_count(value, texts) for value in tree)
    if isinstance(tree, str):
        texts.append(tree)
    return 1
