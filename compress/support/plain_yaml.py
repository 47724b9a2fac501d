"""The one reader of YAML: plain values of bounded size, depth and number; everything else is one line.

YAML can name types and programs, refer to itself, and write a billion values in ten lines. None of that is needed to
describe a device or a recipe, so it is refused where it is met: the document is taken event by event, and what breaks
a limit ends the reading before it takes memory. Scalars mean what they mean in Hydra's files (`1e-3` is a number, a
date is text), so that one file cannot say two things.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import JsonValue

from compress.core.errors import ConfigError, one_line
from compress.support.reading import read_text

__all__ = ["MOST_NODES", "fits", "parse_yaml", "read_yaml"]

_LARGEST_BYTES = 1 << 20
"""Seventy times the largest file of this package, a parser's table."""
MOST_NODES = 100_000
"""Values and keys, those that aliases stand for counted each time: a table of 50,000 class names, read in seconds."""
_DEEPEST = 32
"""Lists and mappings in one another; a run's configuration has 5."""
_LONGEST_TEXT = 1 << 16
_LONGEST_NUMBER = 64  # characters: a 64-bit integer in binary, and more digits than any float has
_INTEGERS = range(-(2**63), 2**64)
_PLAIN, _QUOTED = (True, False), (False, True)
_TAG = "tag:yaml.org,2002:"


class _Resolver(yaml.resolver.Resolver):
    """Resolver of the types of bare scalars: as OmegaConf's loader, floats need no point, and there are no dates."""


_Resolver.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)
_Resolver.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in _Resolver.yaml_implicit_resolvers.items()
}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it: ten times faster


class _NotPlain(Exception):
    """Fault of a text, and the line it is in, counted from 1."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem)
        self.line = line


@dataclass
class _Open:
    """A list or mapping whose end has not come.

    Attributes:
        key: of a mapping, the key whose value comes next.
        nodes: number of nodes that had come before it.
        height: levels below it, so far.
    """

    value: list[JsonValue] | dict[str, JsonValue]
    anchor: str | None
    nodes: int
    line: int
    key: str | None = None
    height: int = 0


@dataclass(frozen=True)
class _Anchored:
    value: JsonValue
    nodes: int
    height: int


def read_yaml(path: Path, what: str = "") -> JsonValue:
    """The document in a file of at most 1 MiB; None if it is empty.

    Args:
        what: what messages call the file, besides its path.

    Raises:
        ConfigError: it cannot be read, is no YAML, or is more than plain values; names the file and the line.
    """
    try:
        text = read_text(path, _LARGEST_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read {f'{what} {path}'.strip()}: {error.strerror or error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, origin: str, *, texts: bool = False, nodes: int = MOST_NODES) -> JsonValue:
    """The document in a text; `origin` is what messages call it.

    Args:
        texts: leave every scalar the text it is, so that a name `007` stays one.
        nodes: how many values and keys there may be, those that aliases stand for counted each time.

    Raises:
        ConfigError: as `read_yaml`.
    """
    document = _Document(texts, nodes)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            document.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or one_line(str(error).splitlines()[0], 200)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{origin} is not YAML: {reason}{where}") from error
    except UnicodeEncodeError as error:
        raise ConfigError(f"{origin} is not YAML: it has characters that cannot be written") from error
    except _NotPlain as error:
        raise ConfigError(f"{origin}, line {error.line}: {error}", fix="write plain values, text in quotes") from error
    return document.value


def fits(number: int) -> bool:
    """Tell whether an integer is one that 64 bits can hold, with or without sign."""
    return number in _INTEGERS


class _Document:
    """Builds the value of a document from its events, without recursion."""

    def __init__(self, texts: bool, most_nodes: int) -> None:
        self.value: JsonValue = None
        self._texts = texts
        self._most_nodes = most_nodes
        self._stack: list[_Open] = []
        self._anchored: dict[str, _Anchored] = {}
        self._nodes = 0
        self._documents = 0
        self._resolver = _Resolver()
        self._constructor = yaml.constructor.SafeConstructor()

    def take(self, event: yaml.Event) -> None:
        """Take the next event in turn.

        Raises:
            _NotPlain: it breaks a limit.
        """
        line = 1 if event.start_mark is None else event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _NotPlain("a second document begins", line)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor or "", line)
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            self._node(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self._stack.pop()
            self._place(done.value, done.anchor, self._nodes - done.nodes, done.height, done.line)

    def _node(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, line: int) -> None:
        if event.tag is not None:
            raise _NotPlain(f"the tag {event.tag.replace(_TAG, '!!')!r} names a type", line)
        self._count(1, 0, line)
        if isinstance(event, yaml.ScalarEvent):
            key = bool(self._stack) and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None
            self._place(self._scalar(event, key, line), event.anchor, 1, 0, line)
            return
        self._require_no_key("a list or mapping", line)
        self._count(0, 1, line)
        value: list[JsonValue] | dict[str, JsonValue] = {} if isinstance(event, yaml.MappingStartEvent) else []
        if event.anchor is not None:
            self._anchored.pop(event.anchor, None)  # not finished: an alias to it from inside would be itself
        self._stack.append(_Open(value, event.anchor, self._nodes - 1, line))

    def _alias(self, anchor: str, line: int) -> None:
        known = self._anchored.get(anchor)
        if known is None:
            inside = any(level.anchor == anchor for level in self._stack)
            raise _NotPlain(f"the alias *{anchor} {'lies in what it stands for' if inside else 'has no anchor'}", line)
        self._count(known.nodes, known.height, line)
        if known.height:
            self._require_no_key("an alias", line)
        self._place(copy.deepcopy(known.value), None, known.nodes, known.height, line)

    def _count(self, nodes: int, levels: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > self._most_nodes:
            raise _NotPlain(
                f"more than {self._most_nodes:,} values, those that aliases stand for counted each time", line
            )
        if len(self._stack) + levels > _DEEPEST:
            raise _NotPlain(f"nested more than {_DEEPEST} deep", line)

    def _require_no_key(self, what: str, line: int) -> None:
        if self._stack and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None:
            raise _NotPlain(f"{what} is used as a key", line)

    def _place(self, value: JsonValue, anchor: str | None, nodes: int, height: int, line: int) -> None:
        """Put a finished value where it belongs."""
        if anchor is not None:
            self._anchored[anchor] = _Anchored(value, nodes, height)
        if not self._stack:
            self.value = value
            return
        level = self._stack[-1]
        level.height = max(level.height, height + 1)
        if isinstance(level.value, list):
            level.value.append(value)
        elif level.key is None:
            level.key = self._key(value, level.value, line)
        else:
            level.value[level.key] = value
            level.key = None

    def _key(self, value: JsonValue, others: dict[str, JsonValue], line: int) -> str:
        if not isinstance(value, str):
            raise _NotPlain(f"the key {value!r} is no text (put it in quotes)", line)
        if value in others:
            raise _NotPlain(f"the key {one_line(value, 80)!r} comes twice", line)
        return value

    def _scalar(self, event: yaml.ScalarEvent, key: bool, line: int) -> JsonValue:
        text: str = event.value
        if len(text) > _LONGEST_TEXT:
            raise _NotPlain(f"a text of more than {_LONGEST_TEXT:,} characters", line)
        if not event.implicit[0]:  # in quotes, or a block
            return text
        kind = self._resolver.resolve(yaml.ScalarNode, text, _PLAIN).removeprefix(_TAG)
        if kind == "merge" and key:
            raise _NotPlain("<< merges mappings (write the keys out)", line)
        if self._texts or kind not in ("null", "bool", "int", "float"):
            return text
        return self._typed(kind, text, line)

    def _typed(self, kind: str, text: str, line: int) -> JsonValue:
        if len(text) > _LONGEST_NUMBER:
            raise _NotPlain(f"a number of {len(text)} characters", line)
        node = yaml.ScalarNode(f"{_TAG}{kind}", text)
        try:
            value: JsonValue = getattr(self._constructor, f"construct_yaml_{kind}")(node)
        except (ValueError, OverflowError) as error:
            raise _NotPlain(f"{text!r} is no number", line) from error
        if isinstance(value, int) and not fits(value):
            raise _NotPlain(f"the integer {text} does not fit 64 bits", line)
        return value
