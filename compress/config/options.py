"""Options and their defaults as the classes declare them, for Hydra: `options://`, the groups `<group>/options`.

`defaults: [options/finetune@_here_, _self_]` in `conf/stage/finetune.yaml` puts every option of that stage's class,
with its default, where the file's own values go; so that a name typed wrong is found, and no default is written twice.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Mapping
from functools import cache

from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from pydantic import BaseModel, JsonValue
from pydantic_core import to_jsonable_python

from compress.data import DataConfig
from compress.measure.settings import MeasureConfig
from compress.models import ModelConfig
from compress.report.loggers.config import LoggerConfig
from compress.support.plain_yaml import read_yaml
from compress.support.resources import conf_folder

__all__ = ["SEARCH_PATH", "options_of", "register"]

_SCHEME, _FOLDER = "options", "options"
SEARCH_PATH = f"{_SCHEME}://compress"
_MISSING = "???"
"""OmegaConf's mark of a value that has to be given."""


def options_of(kind: type[BaseModel]) -> dict[str, JsonValue]:
    """Every option of a class with its default, as plain values."""
    return {
        name: _MISSING if field.is_required() else to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in kind.model_fields.items()
    }


class _Options(ConfigSource):
    """The classes of this package; what others bring is not imported before it is trusted."""

    @staticmethod
    def scheme() -> str:
        return _SCHEME

    def available(self) -> bool:
        return True

    def load_config(self, config_path: str) -> ConfigResult:
        group, _, name = self._normalize_file_name(config_path).removesuffix(".yaml").rpartition("/")
        options = OmegaConf.create(options_of(_class(group, name)))
        return ConfigResult(config=options, path=SEARCH_PATH, provider=self.provider, header={"package": None})

    def is_group(self, config_path: str) -> bool:
        return any(f"{group}/".startswith(f"{config_path}/") for group in _groups()) or not config_path

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        return name in _groups().get(group, ())

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return [] if results_filter is ObjectType.GROUP else sorted(_groups().get(config_path, frozenset()))


def register() -> None:
    """Make the scheme known to Hydra; again does nothing."""
    Plugins.instance().register(_Options)


@cache
def _groups() -> Mapping[str, frozenset[str]]:
    """Names in each group: a stage's is that of its file, the others' is their `kind`."""
    stages = frozenset(path.stem for path in (conf_folder() / "stage").glob("*.yaml"))
    return {f"stage/{_FOLDER}": stages, **{group: frozenset(kinds) for group, kinds in _kinds().items()}}


@cache
def _kinds() -> Mapping[str, Mapping[str, type[BaseModel]]]:
    unions = {"data": DataConfig, "model": ModelConfig, "logger": LoggerConfig}
    kinds = {f"{group}/{_FOLDER}": _by_kind(typing.get_args(union)[0]) for group, union in unions.items()}
    return {**kinds, f"measure/{_FOLDER}": {"all": MeasureConfig}}


def _by_kind(union: object) -> dict[str, type[BaseModel]]:
    members: tuple[type[BaseModel], ...] = typing.get_args(union)
    return {typing.get_args(member.model_fields["kind"].annotation)[0]: member for member in members}


def _class(group: str, name: str) -> type[BaseModel]:
    if group in _kinds():
        return _kinds()[group][name]
    file = read_yaml(conf_folder() / "stage" / f"{name}.yaml")
    assert isinstance(file, dict)
    module, _, class_name = str(file["_target_"]).rpartition(".")
    kind: type[BaseModel] = getattr(importlib.import_module(module), class_name)
    return kind
