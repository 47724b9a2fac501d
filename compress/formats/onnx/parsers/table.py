"""A parser's table, read from `<name>.yaml` beside this file: operators, types and limits, each with its source."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compress.core.errors import ConfigError, nearest
from compress.formats.onnx.parsers.rules import RULES
from compress.support.plain_yaml import parse_yaml

__all__ = ["Entry", "Limit", "ParserTable", "load_parser", "parser_names"]

_STRICT = ConfigDict(frozen=True, extra="forbid")
_PACKAGE = "compress.formats.onnx.parsers"


class Limit(BaseModel):
    """One thing that the parser asks of an operator; exactly one of the kinds below.

    Attributes:
        attribute: whose value (of a list, every element; absent: ONNX's default) must be one of `allowed`.
        constant: position of an input that must be a constant, where it is given.
        rank: position of an input whose number of dimensions lies between `least` and `most`.
        outputs: most outputs that may be used.
        rule: name of a function in `rules.py`.
        source: key of the table's `sources`.
    """

    model_config = _STRICT
    attribute: str | None = None
    allowed: tuple[str | int | float, ...] = ()
    constant: Annotated[int, Field(ge=0)] | None = None
    rank: Annotated[int, Field(ge=0)] | None = None
    least: int = 0
    most: int = 0
    outputs: Annotated[int, Field(ge=1)] | None = None
    rule: str | None = None
    source: str

    @model_validator(mode="after")
    def _one_kind(self) -> Limit:
        kinds = [self.attribute, self.constant, self.rank, self.outputs, self.rule]
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("a limit is one of attribute, constant, rank, outputs, rule")
        if (self.attribute is not None) != bool(self.allowed):
            raise ValueError("attribute and allowed go together")
        if self.rank is not None and not self.least <= self.most:
            raise ValueError("rank goes with least and most")
        if self.rule is not None and self.rule not in RULES:
            raise ValueError(f"no rule {self.rule!r} in {_PACKAGE}.rules")
        return self


class Entry(BaseModel):
    """One operator that the parser reads.

    Attributes:
        types: element types of the input at `typed`; empty: any that the parser has.
        typed: position of that input.
        source: key of the table's `sources`.
    """

    model_config = _STRICT
    types: tuple[str, ...] = ()
    typed: Annotated[int, Field(ge=0)] = 0
    limits: tuple[Limit, ...] = ()
    source: str


class ParserTable(BaseModel):
    """Table of what one version of one parser reads.

    Attributes:
        parser: as users know it, `TensorRT 8.5`.
        opset: newest operator set.
        rank: most dimensions of any tensor; None: any number.
        same_as: types that it reads as another one (`int64: int32`).
        types: of constants and tensors.
        sources: documents by the key that entries name.
        listed: key of the one that has all operators, types and ranks.
        operators: by operator; what is not listed is not read.
    """

    model_config = _STRICT
    parser: str
    opset: int
    rank: int | None
    same_as: dict[str, str] = {}
    types: tuple[str, ...]
    sources: dict[str, Annotated[str, Field(min_length=8)]]
    listed: str
    operators: dict[str, Entry]

    @model_validator(mode="after")
    def _sourced(self) -> ParserTable:
        if self.listed not in self.sources:
            raise ValueError(f"listed: no source {self.listed!r}; {nearest(self.listed, self.sources)}")
        for name, entry in self.operators.items():
            for key in (entry.source, *(limit.source for limit in entry.limits)):
                if key not in self.sources:
                    raise ValueError(f"{name}: no source {key!r}; {nearest(key, self.sources)}")
            unknown = set(entry.types) - set(self.types)
            if unknown:
                raise ValueError(f"{name}: types {sorted(unknown)} are not among the parser's")
        return self

    def as_read(self, type_name: str) -> str:
        """The type that the parser makes of one."""
        return self.same_as.get(type_name, type_name)


def parser_names() -> list[str]:
    """Names of the tables there are."""
    return sorted(path.name.removesuffix(".yaml") for path in _files() if path.name.endswith(".yaml"))


@lru_cache
def load_parser(name: str) -> ParserTable:
    """Read and validate a table.

    Raises:
        ConfigError: there is none of that name, or it is not one.
    """
    if name not in parser_names():
        raise ConfigError(f"no table of the ONNX parser {name!r}", fix=nearest(name, parser_names()))
    text = (resources.files(_PACKAGE) / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        return ParserTable.model_validate(parse_yaml(text, f"the table of the ONNX parser {name!r}"))
    except ValidationError as error:
        raise ConfigError(f"the table of the ONNX parser {name!r} is damaged: {error}") from error


def _files() -> list[resources.abc.Traversable]:
    return list(resources.files(_PACKAGE).iterdir())
