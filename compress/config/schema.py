"""A composed configuration becomes typed objects here, or a one-line error that names the nearest valid key."""

from __future__ import annotations

import dataclasses
import importlib
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from compress.config.compose import Tree
from compress.core.artifact import Precision
from compress.core.budget import Budget
from compress.core.errors import ConfigError, nearest
from compress.core.stage import Stage
from compress.core.target import TARGET_NAME, Target
from compress.data import DataConfig
from compress.device.config import DeviceConfig
from compress.measure.boundary import MeasureConfig
from compress.models import ModelConfig
from compress.report.loggers.config import LoggerConfig, NoLogging
from compress.support.plain_yaml import read_yaml
from compress.support.reading import is_file
from compress.support.resources import targets_folder
from compress.support.working_folder import trust_working_folder

__all__ = ["RunConfig", "build_stages", "load_target", "parse_config"]

T = TypeVar("T")
Trusted = Callable[[str], bool]

_STAGE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
"""Stages name files, columns and keys: no separators, no dots (suffixes begin with them), short enough for any disk."""

_RESERVED = frozenset(
    {"source", "golden", "report", "manifest", "bundle", "trace", "entry", "module"}  # other files beside a stage's
    | {"inputs", "labels", "reference", "file", "allow_pickle"}  # other arrays in golden.npz, arguments of its writer
)
_RESERVED_FOR = {"profile": "compress.stages.inspect.profile.Profile"}  # whose files reports look for by this name
_RESERVED_START = ("device-", "measured-", "raced-", "drift-", "ranges-", "reference-")
_SHOWN_CHARACTERS = 80  # of a name that is none


class TargetChoice(BaseModel):
    """Device profile that a recipe is for."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str


class RunConfig(BaseModel):
    """Everything a run is made from, except the stages (their classes are named in the configuration itself)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    target: TargetChoice
    model: ModelConfig
    data: DataConfig
    budget: Budget = Budget()
    measure: MeasureConfig
    precision: Precision
    output: Path
    cache_gib: Annotated[float, Field(gt=0, le=2**20)] = 20.0
    resume: bool
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    golden_samples: Annotated[int, Field(ge=1, le=1024)]
    trust: tuple[str, ...]
    device: DeviceConfig = DeviceConfig()
    logger: LoggerConfig = NoLogging()
    stage: dict[str, dict[str, object]]


def parse_config(tree: Tree) -> RunConfig:
    """Validate a composed configuration.

    Raises:
        ConfigError: unknown key, wrong type or impossible value.
    """
    return _validate(RunConfig, tree, prefix="")


def load_target(name: str, folders: Sequence[Path]) -> Target:
    """Read `<name>.yaml` from the first of `folders`, then from the packaged profiles.

    Raises:
        ConfigError: no such profile, or one with unknown keys, missing facts or facts without a source.
    """
    places = [*folders, targets_folder()]
    files = [folder / f"{name}.yaml" for folder in places] if re.fullmatch(TARGET_NAME, name) else []
    path = next((file for file in files if is_file(file)), None)
    if path is None:
        known = {profile.stem for folder in places for profile in folder.glob("*.yaml")}
        fix = f"write targets/{name}.yaml" if files else "a target's name is letters a to z, digits and _, at most 64"
        raise ConfigError(f"no device profile {name[:_SHOWN_CHARACTERS]!r}: {nearest(name, known)}", fix=fix)
    return _validate(Target, read_yaml(path), prefix=str(path))


def build_stages(nodes: Mapping[str, Mapping[str, object]], trusted: Trusted) -> dict[str, Stage]:
    """Instantiate the stages of a recipe, in order.

    Raises:
        ConfigError: a name is none or taken; `_target_` is missing, not trusted, or not a `Stage`; an option is
            unknown or impossible.
    """
    _check_names(nodes)
    stages = {}
    for name, node in nodes.items():
        stage_class = _stage_class(name, node.get("_target_"), trusted)
        options = {key: value for key, value in node.items() if key != "_target_"}
        stages[name] = _validate(stage_class, options, prefix=f"stage.{name}")
    return stages


def _check_names(nodes: Mapping[str, Mapping[str, object]]) -> None:
    """Refuse what cannot be the first part of a file name, or would be that of another file."""
    known: dict[str, str] = {}
    for name, node in nodes.items():
        shown = repr(name[:_SHOWN_CHARACTERS])
        folded = name.casefold()
        if not _STAGE_NAME.fullmatch(name):
            raise ConfigError(
                f"stage name {shown} is none: letters, digits, _ and -, at most 64, not beginning with -",
                fix="a name like to_onnx",
            )
        others = _RESERVED_FOR.get(folded, node.get("_target_")) != node.get("_target_")
        if others or folded in _RESERVED or folded.startswith(_RESERVED_START):
            raise ConfigError(f"stage name {shown} is that of another file of a run", fix=f"call it my_{name}")
        if folded in known:
            raise ConfigError(
                f"stage names {known[folded]!r} and {shown} differ in case only, and their files could be one",
                fix="give one of them another name",
            )
        known[folded] = name


def _stage_class(name: str, target: object, trusted: Trusted) -> type[Stage]:
    """Resolve a dotted class path without calling anything that is not a `Stage` from a trusted package."""
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"stage.{name} needs _target_: package.module.Class, got {target!r}")
    package = target.split(".")[0]
    if package != "compress" and not trusted(package):
        raise ConfigError(
            f"stage.{name}._target_ names the package {package!r}, which this run does not trust "
            "(a configuration can run code through it)",
            fix=f"add trust=[{package}] on the command line",
        )
    trust_working_folder(package)
    module_name, _, class_name = target.rpartition(".")
    try:
        member = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"stage.{name}._target_={target} cannot be imported: {error}") from error
    if not (isinstance(member, type) and issubclass(member, Stage)):
        raise ConfigError(f"stage.{name}._target_={target} is not a Stage")
    return member


def _validate(kind: type[T], value: object, *, prefix: str) -> T:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise _explain(error, kind, prefix) from error


def _explain(error: ValidationError, kind: object, prefix: str) -> ConfigError:
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    path = ".".join([prefix, *location] if prefix else location)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return ConfigError(f"unknown key {path!r}: {nearest(location[-1], _fields_at(kind, location[:-1]))}")
    if first["type"] in ("missing", "missing_argument"):
        return ConfigError(f"{path} is missing", fix=f"{path}=<value>")
    message = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{path}={first['input']!r}: {message[0].lower()}{message[1:]}")


def _fields_at(kind: object, location: Sequence[str]) -> list[str]:
    """Names of the fields found by walking `location` down from `kind`; a discriminated union's tag picks a member."""
    for part in location:
        kind = _member(kind, part)
    origin = typing.get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, BaseModel):
        return list(origin.model_fields)
    return [field.name for field in dataclasses.fields(origin)] if dataclasses.is_dataclass(origin) else []


def _member(kind: object, part: str) -> object:
    if isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields:
        return kind.model_fields[part].annotation
    for option in typing.get_args(kind):
        tag = getattr(option, "model_fields", {}).get("kind")
        if tag is not None and part in typing.get_args(tag.annotation):
            return option
        if dataclasses.is_dataclass(option):
            return option
    return typing.get_args(kind)[-1] if typing.get_args(kind) else kind
