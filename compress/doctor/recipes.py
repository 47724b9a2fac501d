"""Checks of which targets and stages will work here, asked of the very code that refuses them in a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from compress.config.schema import build_stages, load_target
from compress.core.artifact import Precision
from compress.core.errors import CompressError, ConfigError, MissingExtra
from compress.core.stage import Stage
from compress.core.target import Target
from compress.doctor.check import Check, Level
from compress.pipeline.request import Request, plan_run
from compress.support.plain_yaml import read_yaml
from compress.support.resources import conf_folder, describe_choices

__all__ = ["DEFAULT_TARGET", "examine_stages", "examine_targets"]

DEFAULT_TARGET = "jetson_nano"
"""The device of the main job in the README; it has to work wherever this package is installed."""


def examine_targets(config_folder: Path | None) -> list[Check]:
    """One finding per recipe: planned as `target=<name>` would be, nothing started."""
    return [_target(name, config_folder) for name in _choices("target", config_folder)]


def examine_stages(config_folder: Path | None) -> list[Check]:
    """One finding per stage: for which devices it works here with its default options."""
    folders = [config_folder / "targets"] if config_folder else []
    targets = [load_target(name, folders) for name in _choices("target", config_folder)]
    return [_stage(name, path, targets) for name, path in _choices("stage", config_folder).items()]


def _choices(group: str, config_folder: Path | None) -> dict[str, Path]:
    """File of every choice of a group; the user's own go before ours."""
    folders = [conf_folder() / group, *([config_folder / group] if config_folder else [])]
    return {name: folder / f"{name}.yaml" for folder in folders for name in describe_choices(folder)}


def _target(name: str, config_folder: Path | None) -> Check:
    needed = name == DEFAULT_TARGET
    try:
        plan = plan_run(Request((f"target={name}",), config_folder))
        notes = _handed_over(step.stage for step in plan.pipeline.steps)
    except CompressError as error:
        return Check("targets", name, Level.NO, error.problem, error.fix, needed)
    return Check("targets", name, Level.OK, "; ".join([plan.pipeline.target.title, *notes]), needed=needed)


def _handed_over(stages: Iterable[Stage]) -> list[str]:
    reasons = {stage.produces: stage.missing_here() for stage in stages}
    return [f"{reason}, so the {kind} file is made elsewhere" for kind, reason in reasons.items() if reason]


def _stage(name: str, path: Path, targets: Sequence[Target]) -> Check:
    try:
        node = read_yaml(path)
        if not isinstance(node, dict):
            raise ConfigError(f"{path} is no mapping", fix="write key: value")
        own = {key: value for key, value in node.items() if key != "defaults"}  # the others are the class's
        stage = build_stages({name: own}, lambda _: False)[name]
        fitting = [target.name for target in targets if _takes(target, stage, name)]
        notes = _handed_over([stage])
    except CompressError as error:
        return Check("stages", name, Level.NO, error.problem, error.fix)
    where = "every target" if len(fitting) == len(targets) else ", ".join(fitting) or "no target that is known"
    return Check("stages", name, Level.OK, "; ".join([where, *notes]))


def _takes(target: Target, stage: Stage, name: str) -> bool:
    """Tell whether a stage runs for a target on an input of some precision.

    Raises:
        MissingExtra: it would, if a package were installed.
    """
    for precision in Precision:
        try:
            stage.requires(target, precision, name)
        except MissingExtra:
            raise
        except CompressError:
            continue
        return True
    return False
