"""The table of supported operators, read from `operators.yaml`."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field, field_validator

from compress.formats.edgetpu.rules import RULES
from compress.support.plain_yaml import parse_yaml

__all__ = ["NEWEST_RUNTIME", "OLDEST_RUNTIME", "Entry", "Table", "load_table"]

OLDEST_RUNTIME = 10
NEWEST_RUNTIME = 14
"""Edge TPU runtimes that compiler 16 compiles for with `-m` (https://coral.ai/docs/edgetpu/compiler/)."""

_STRICT = ConfigDict(frozen=True, extra="forbid")


class RuleUse(BaseModel):
    """A limitation, and the runtimes that have it."""

    model_config = _STRICT
    rule: str
    since: int = OLDEST_RUNTIME
    until: int = NEWEST_RUNTIME

    @field_validator("rule")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in RULES:
            raise ValueError(f"no rule {value!r} in compress/formats/edgetpu/rules.py")
        return value


class Entry(BaseModel):
    """One operator of the table.

    Attributes:
        since: oldest runtime that has it.
        rules: its limitations; a bare name holds for every runtime.
    """

    model_config = _STRICT
    since: int = OLDEST_RUNTIME
    rules: tuple[RuleUse, ...] = Field(default=())

    @field_validator("rules", mode="before")
    @classmethod
    def _bare_names(cls, value: object) -> object:
        return [{"rule": use} if isinstance(use, str) else use for use in value] if isinstance(value, list) else value


class Table(BaseModel):
    """Everything the preflight knows.

    Attributes:
        operators: by kind.
        instead: what to use in place of operators that are not mapped.
    """

    model_config = _STRICT
    operators: dict[str, Entry]
    instead: dict[str, str]


@lru_cache
def load_table() -> Table:
    """Read and validate `operators.yaml`."""
    text = (resources.files("compress.formats.edgetpu") / "operators.yaml").read_text(encoding="utf-8")
    return Table.model_validate(parse_yaml(text, "operators.yaml"))
