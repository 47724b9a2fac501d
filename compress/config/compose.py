"""Compose Hydra configurations, and say in one line what is wrong with an override.

The Compose API is used instead of `hydra.main` because a configuration may come from a stranger: `hydra.main`
instantiates the callbacks, launchers and loggers named in it; Compose only merges values.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import JsonValue

from compress.config import options as option_source
from compress.config.limits import bounded, clipped, require_little_work, require_shallow
from compress.config.source import SCHEME, register
from compress.core.errors import ConfigError, nearest
from compress.support.plain_yaml import read_yaml
from compress.support.reading import absolute, is_folder
from compress.support.resources import conf_folder

__all__ = ["PATH_KEYS", "STAGE_PATHS", "Tree", "compose_tree", "expand_sweep", "override_keys"]
__all__ += ["typed_stages"]

Tree = dict[str, JsonValue]
"""A composed configuration: nested dicts, lists and scalars."""

PATH_KEYS = frozenset(
    {"output", "model.path", "model.checkpoint", "data.train", "data.test", "data.file", "data.root"}
    | {"data.class_map", "data.class_names", "device.inventory", "logger.folder"}
)
"""Keys whose values are paths, and so are taken as they were typed; Hydra's grammar has no words for most names."""

STAGE_PATHS = frozenset({"layer_times"})
"""Options of stages of the same kind."""

_TYPED = re.compile(r"(?P<key>\+{0,2}(?P<name>[A-Za-z0-9_.-]+))=(?P<value>.+)", re.DOTALL)
_TAKEN_AWAY = re.compile(r"~stage@(?P<key>stage\.[A-Za-z0-9_-]+)(=.*)?", re.DOTALL)
"""`~stage@stage.ts`: Hydra takes the choice away and leaves what a recipe set in it, half a stage."""

_QUOTES = "'\""
_INTERPOLATION = re.compile(r"\$\{.+\}", re.DOTALL)
_ELEMENT = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,]+""", re.DOTALL)

_MOST_RUNS = 10_000
"""Combinations of one sweep: at a minute each, a week."""
_UNDOCUMENTED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RecursionError)
"""What Hydra and OmegaConf let through besides their own errors, on texts that their grammars take and they do not."""

_KEY_IN_MESSAGE = re.compile(r"(?:override|delete from config\.|delete) '([^']+)'")


def compose_tree(overrides: Sequence[str], config_folder: Path | None = None) -> Tree:
    """The configuration after all overrides, interpolations resolved.

    Raises:
        ConfigError: naming the key or choice and the nearest valid one.
    """
    if config_folder is not None and not is_folder(config_folder):
        raise ConfigError(f"--config-dir {config_folder} is not a folder")
    overrides = _quoted(overrides)
    _check_top_level(_parse(overrides), config_folder)
    return _to_tree(_compose(overrides, config_folder))


def expand_sweep(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of the swept values, each as a plain list of overrides, in the order they were typed."""
    parsed = _parse(overrides, sweep=True)
    try:
        alternatives = [list(itertools.islice(_alternatives(override), _MOST_RUNS + 1)) for override in parsed]
    except (HydraException, *_UNDOCUMENTED) as error:
        raise ConfigError(f"cannot sweep over {clipped(' '.join(overrides))}: {_first_line(error)}") from error
    runs = list(itertools.islice(itertools.product(*alternatives), _MOST_RUNS + 1))
    if len(runs) > _MOST_RUNS:
        raise ConfigError(f"more than {_MOST_RUNS:,} combinations to run", fix="sweep over fewer values")
    return runs


def override_keys(overrides: Sequence[str]) -> frozenset[str]:
    """The keys that were typed, without `+`, `~` and package."""
    return frozenset(override.key_or_group for override in _parse(overrides))


def typed_stages(overrides: Sequence[str]) -> frozenset[str]:
    """The stages that were added or given an option, by their names in the recipe; those taken away are none."""
    names = set()
    for override in _parse(overrides):
        key = override.package if override.key_or_group == "stage" else override.key_or_group
        group, _, path = (key or "").partition(".")
        if group == "stage" and path and not override.is_delete():
            names.add(path.partition(".")[0])
    return frozenset(names)


def _quoted(overrides: Sequence[str], *, sweep: bool = False) -> tuple[str, ...]:
    """The same overrides with their paths in quotes for Hydra, so that it reads what was typed; stages that are taken
    away by their group are taken away whole.

    What keeps its meaning: `null`, quotes, interpolations (`${...}`), and, to sweep over, commas and functions.
    """
    whole = (f"~{match['key']}" if (match := _TAKEN_AWAY.fullmatch(text)) else text for text in overrides)
    return tuple(_quoted_path(override, sweep) for override in whole)


def _quoted_path(override: str, sweep: bool) -> str:
    match = _TYPED.fullmatch(override)
    if match is None or not _is_path(match["name"]) or match["value"].strip().lower() == "null":
        return override
    try:
        parsed = OverridesParser.create().parse_override(override)
    except (HydraException, *_UNDOCUMENTED):
        parsed = None
    if parsed is not None and (match["value"][0] in _QUOTES or (sweep and parsed.is_sweep_override())):
        return override
    elements = [match["value"]] if parsed is not None or not sweep else _ELEMENT.findall(match["value"])
    return f"{match['key']}={','.join(map(_quote, elements))}"


def _is_path(key: str) -> bool:
    group, _, option = key.partition(".")
    return key in PATH_KEYS or (group == "stage" and option.rpartition(".")[2] in STAGE_PATHS)


def _quote(path: str) -> str:
    """A path as Hydra and OmegaConf read it back: backslashes count before a quote (and before `${`) only."""
    if len(path) > 1 and path[0] == path[-1] and path[0] in _QUOTES:
        return path
    if not _INTERPOLATION.search(path):
        path = re.sub(r"(\\*)\$\{", r"\1\1\\${", path)
    return "'" + re.sub(r"(\\*)('|\Z)", lambda run: 2 * run[1] + ("\\'" if run[2] else ""), path) + "'"


def _alternatives(override: Override) -> Iterator[str]:
    if not override.is_sweep_override():
        yield cast(str, override.input_line)
        return
    values = override.sweep_string_iterator()
    if _is_path(override.key_or_group):
        values = map(_unescaped, values)
    for value in values:
        yield f"{override.get_key_element()}={value}"


def _unescaped(value: str) -> str:
    """A swept path in quotes where Hydra wrote it with escapes, which a path does not have."""
    read = OverridesParser.create().parse_override(f"path={value}").value() if "\\" in value else None
    return _quote(read) if isinstance(read, str) else value


def _compose(overrides: Sequence[str], config_folder: Path | None) -> DictConfig:
    try:
        with warnings.catch_warnings(), initialize_config_dir(str(conf_folder()), version_base="1.3"):
            warnings.simplefilter("ignore")
            return compose("config", overrides=[*overrides, *_search_path(config_folder)])
    except MissingConfigException as error:
        raise _missing_choice(error) from error
    except HydraException as error:
        raise _explain(str(error), overrides, config_folder) from error
    except (OmegaConfBaseException, *_UNDOCUMENTED) as error:
        raise ConfigError(f"configuration: {_first_line(error)}") from error


def _to_tree(config: DictConfig) -> Tree:
    OmegaConf.clear_resolver("oc.create")  # reads YAML from a text, past the door
    try:
        require_little_work(OmegaConf.to_container(config, resolve=False))
        return cast(Tree, OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "a key"
        if isinstance(error, MissingMandatoryValue):
            raise ConfigError(f"{key} is needed and not given", fix=f"{key}=<value>") from error
        raise ConfigError(f"configuration: {key}: {_first_line(error)}") from error
    except RecursionError as error:
        raise ConfigError("configuration: an interpolation leads to itself", fix="write the value instead") from error
    except _UNDOCUMENTED as error:
        raise ConfigError(f"configuration: {_first_line(error)}") from error


def _search_path(config_folder: Path | None) -> list[str]:
    option_source.register()
    places = [option_source.SEARCH_PATH]
    if config_folder is not None:
        register()
        places.append(f"{SCHEME}://{absolute(config_folder)}")
    return [f"hydra.searchpath=[{','.join(map(_quote, places))}]"]


def _parse(overrides: Sequence[str], *, sweep: bool = False) -> list[Override]:
    for override in overrides:
        require_shallow(override)
    try:
        parsed = OverridesParser.create().parse_overrides(list(_quoted(overrides, sweep=sweep)))
        for entry in parsed:
            if not bounded(entry.value()):
                raise ConfigError(f"an integer in {clipped(str(entry.input_line))} does not fit 64 bits")
    except (HydraException, *_UNDOCUMENTED) as error:
        typed = next((text for text in overrides if text in str(error)), " ".join(overrides))
        fix = "write key=value, ~key or +key=value"
        raise ConfigError(f"cannot read the override {clipped(typed)}", fix=fix) from error
    return parsed


def _check_top_level(overrides: Sequence[Override], config_folder: Path | None) -> None:
    """Catch a misspelt first part before Hydra complains about something it implies (`targt=x`: no target given)."""
    known = _top_level_names(config_folder)
    for override in overrides:
        first = override.key_or_group.replace("/", ".").split(".")[0]
        if first == "hydra":
            raise ConfigError(
                f"{override.input_line}: Hydra's own settings are not used here",
                fix="output=<folder> sets where results go, --config-dir adds configurations",
            )
        if first not in known:
            raise ConfigError(f"unknown key {first!r} in {override.input_line!r}: {nearest(first, known)}")


def _top_level_names(config_folder: Path | None) -> set[str]:
    own = read_yaml(conf_folder() / "config.yaml")
    assert isinstance(own, dict)
    names = set(own) - {"defaults"}
    for folder in filter(None, (conf_folder(), config_folder)):
        names |= _groups(folder)
    return names


def _groups(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir() if is_folder(path)}
    except OSError as error:
        raise ConfigError(f"--config-dir {folder}: {error.strerror or error}") from error


def _missing_choice(error: MissingConfigException) -> ConfigError:
    group, _, choice = str(error.missing_cfg_file).rpartition("/")
    return ConfigError(f"unknown {group} {choice!r}: {nearest(choice, error.options or [])}")


def _explain(message: str, overrides: Sequence[str], config_folder: Path | None) -> ConfigError:
    if message.startswith("You must specify"):
        group = message.split("'")[1]
        choices = [line.strip() for line in message.splitlines()[2:]]
        return ConfigError(f"no {group} given", fix=f"{group}=<one of {', '.join(choices)}>")
    if message.startswith("Ambiguous value"):
        return ConfigError(_first_line(message), fix="add -m to run every combination")
    if match := _KEY_IN_MESSAGE.search(message):
        return _unknown_key(match[1], overrides, config_folder)
    return ConfigError(f"configuration: {_first_line(message)}")


def _unknown_key(key: str, overrides: Sequence[str], config_folder: Path | None) -> ConfigError:
    """Name the keys that exist where `key` was looked for, from the configuration composed without it."""
    parsed = [o for o in _parse(overrides) if o.key_or_group != key and not o.is_delete()]
    others = [override.input_line for override in parsed if override.input_line]
    config = _compose(others, config_folder)
    parent, _, name = key.replace("/", ".").replace("@", ".").rpartition(".")
    siblings = OmegaConf.select(config, parent) if parent else config
    if not isinstance(siblings, DictConfig):
        return _unknown_key(parent, others, config_folder)
    return ConfigError(f"unknown key {key!r}: {nearest(name, {str(sibling) for sibling in siblings} - {'_target_'})}")


def _first_line(error: object) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
