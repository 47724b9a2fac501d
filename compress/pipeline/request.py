"""Path from what was typed to a checked plan, before anything is loaded."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from compress.config.compose import Tree, compose_tree, override_keys, typed_stages
from compress.config.schema import RunConfig, build_stages, load_target, parse_config
from compress.core.errors import ConfigError
from compress.data import DigitsData
from compress.models import (
    DigitsModel,
    FactoryModel,
    FileModel,
    ModelConfig,
    TorchvisionModel,
    is_tflite,
    source_format,
)
from compress.pipeline.plan import Pipeline
from compress.report.loggers import require_logger

__all__ = ["Plan", "Request", "plan_run"]


@dataclass(frozen=True)
class Request:
    """Request for one run, as the user typed it."""

    overrides: tuple[str, ...]
    config_folder: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A request that can be carried out.

    Attributes:
        trusted: packages that code may be imported from.
    """

    tree: Tree
    config: RunConfig
    trusted: frozenset[str]
    pipeline: Pipeline


def plan_run(request: Request) -> Plan:
    """Compose a request and hold its recipe against the target, before anything is loaded.

    Raises:
        ConfigError: the request is wrong, the target refuses a stage, or this machine lacks what a stage needs.
    """
    tree = compose_tree(request.overrides, request.config_folder)
    config = parse_config(tree)
    typed = override_keys(request.overrides)
    _require_layers(config)
    _require_data(config, typed)
    trusted = _trusted_packages(config, typed)
    _require_typed_inventory(config, typed)
    folders = [request.config_folder / "targets"] if request.config_folder else []
    target = load_target(config.target.name, folders)
    stages = build_stages(config.stage, trusted.__contains__)
    asked = typed_stages(request.overrides)
    pipeline = Pipeline.check(target, stages, source_format(config.model), asked)
    require_logger(config.logger)
    return Plan(tree, config, trusted, pipeline)


def _require_layers(config: RunConfig) -> None:
    """Say what can be done with a finished file, before anything is asked for that it has no use for.

    Raises:
        ConfigError: the model is a TFLite file.
    """
    if isinstance(config.model, FileModel) and is_tflite(config.model.path):
        path = config.model.path
        raise ConfigError(
            f"{path} is a TFLite file, the end of a run: it has no layers left to prune or quantize; what it holds and "
            f"what an Edge TPU maps of it says: python -m compress.device.preflight {shlex.quote(str(path))}",
            fix="for a run, name what it was converted from: .pt2, TorchScript or .onnx",
        )


def _require_data(config: RunConfig, typed: frozenset[str]) -> None:
    """Refuse to calibrate somebody's model on handwritten digits because no data set was named.

    Raises:
        ConfigError: the embedded data with another model than the embedded one, and nobody typed `data=digits`.
    """
    if isinstance(config.data, DigitsData) and not isinstance(config.model, DigitsModel) and "data" not in typed:
        raise ConfigError(
            f"data= is needed for model={_model_name(config.model)}: the embedded digits belong to model=digits",
            fix="data=image_folder data.train=<folder>, or data=csv, npz or torchvision; data=digits if it was "
            "trained on those",
        )


def _model_name(model: ModelConfig) -> str:
    return model.name if isinstance(model, TorchvisionModel) else model.kind


def _require_typed_inventory(config: RunConfig, typed: frozenset[str]) -> None:
    """An inventory names files for SSH, which name programs: no configuration file brings one.

    Raises:
        ConfigError: `device.inventory` was set by a configuration file.
    """
    if config.device.inventory is not None and not {"device", "device.inventory"} & typed:
        raise ConfigError(
            "device.inventory is only honoured on the command line (an inventory can start programs through SSH)",
            fix=f"type device.inventory={config.device.inventory}",
        )


def _trusted_packages(config: RunConfig, typed: frozenset[str]) -> frozenset[str]:
    """Packages the user named on the command line; a configuration file cannot extend its own trust.

    Raises:
        ConfigError: `trust` was set by a configuration file.
    """
    if config.trust and "trust" not in typed:
        raise ConfigError("trust is only honoured on the command line", fix=f"type trust=[{','.join(config.trust)}]")
    named = set(config.trust)
    if isinstance(config.model, FactoryModel) and "model.factory" in typed:
        named.add(config.model.factory.partition(":")[0].partition(".")[0])
    for name, node in config.stage.items():
        if f"stage.{name}._target_" in typed:
            named.add(str(node.get("_target_")).partition(".")[0])
    return frozenset(named)
