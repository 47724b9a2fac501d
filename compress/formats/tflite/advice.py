"""Advice on what is known to convert, and what helps where something does not: the data of `advice.yaml`."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import yaml
from pydantic import BaseModel, ConfigDict

__all__ = ["Advice", "load_advice"]


class Advice(BaseModel):
    """ATen operators by name, without namespace and overload.

    Attributes:
        known: rows of those that become integer operators of LiteRT.
        instead: what to put in the place of one.
        families: the same for names that contain a word; the empty word is in all.
        kinds: by the operator of LiteRT that stands for nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    known: tuple[frozenset[str], ...]
    instead: dict[str, str]
    families: dict[str, str]
    kinds: dict[str, str]

    def converts(self, operator: str) -> bool:
        """Tell whether an operator is known to become an integer one."""
        return any(operator in row for row in self.known)

    def for_operator(self, operator: str) -> str:
        """Return what helps, in a few words."""
        families = (text for word, text in self.families.items() if word in operator)
        return self.instead.get(operator) or next(families)


@lru_cache
def load_advice() -> Advice:
    """Read and validate `advice.yaml`."""
    text = (resources.files("compress.formats.tflite") / "advice.yaml").read_text(encoding="utf-8")
    return Advice.model_validate(yaml.safe_load(text))
