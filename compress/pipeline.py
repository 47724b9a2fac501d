"""Check every stage against the target before any work, then know which stage feeds which.

Pipeline.check(target, stages, source)  ->  Pipeline(steps)      refuses with the reason and the fix
execute(pipeline, ...)                  ->  see compress/execute.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compress.errors import ConfigError, Refusal, nearest
from compress.stage import Stage
from compress.target import Target
from compress.types import Format, Precision

__all__ = ["SOURCE", "Pipeline", "Step"]

SOURCE = "source"
"""Name of the model as loaded, before any stage."""


@dataclass(frozen=True)
class Step:
    """One stage in its place: `feed` names the earlier step (or `source`) whose output it takes."""

    name: str
    stage: Stage
    feed: str
    format: Format
    precision: Precision


@dataclass(frozen=True)
class Pipeline:
    """A recipe that has been held against its target."""

    target: Target
    steps: tuple[Step, ...]

    @classmethod
    def check(cls, target: Target, stages: Mapping[str, Stage], source: Format) -> Pipeline:
        """Order the stages, wire each to its input and hold it against the target.

        A stage takes the newest earlier output in a format it accepts, or the one its `source` names.

        Raises:
            Refusal: the target cannot use a stage, a stage has no usable input, or nothing would use its output.
            ConfigError: `source` or `before` names an unknown stage.
        """
        steps: list[Step] = []
        for name, stage in _ordered(stages).items():
            feed, fed, precision = _feed(name, stage, steps, source)
            stage.requires(target, precision, name)
            steps.append(Step(name, stage, feed, stage.produces or fed, stage.precision_from(precision)))
        _refuse_unused(steps)
        return cls(target, tuple(steps))


def _ordered(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stages in recipe order, those with `before` moved to just before the stage they name."""
    names = list(stages)
    for name, stage in stages.items():
        if stage.before is not None:
            _require_known(stage.before, names, f"stage.{name}.before")
            names.remove(name)
            names.insert(names.index(stage.before), name)
    return {name: stages[name] for name in names}


def _feed(name: str, stage: Stage, earlier: list[Step], source: Format) -> tuple[str, Format, Precision]:
    """Name, format and precision of the output that `stage` takes."""
    outputs = {SOURCE: (source, Precision.FP32)} | {step.name: (step.format, step.precision) for step in earlier}
    if stage.source is not None:
        _require_known(stage.source, list(outputs), f"stage.{name}.source")
        outputs = {stage.source: outputs[stage.source]}
    for candidate, (kind, precision) in reversed(outputs.items()):
        if kind in stage.accepts:
            return candidate, kind, precision
    accepted = " or ".join(sorted(kind.value for kind in stage.accepts))
    given = " and ".join(sorted({kind.value for kind, _ in outputs.values()}))
    reason = f": {stage.why_not_onnx}" if source is Format.ONNX and stage.why_not_onnx else ""
    raise Refusal(
        f"stage {name!r} takes {accepted}, but only {given} comes before it{reason}",
        fix=f"~stage.{name}",
    )


def _refuse_unused(steps: list[Step]) -> None:
    """A module that no later stage takes would be computed and ignored."""
    used = {step.feed for step in steps}
    exporter = next((step.name for step in steps if step.format is not Format.TORCH), None)
    for step in steps:
        if step.format is Format.TORCH and step.name not in used and exporter is not None:
            raise Refusal(
                f"stage {step.name!r}: nothing after it uses its output",
                fix=f"stage.{step.name}.before={exporter} or ~stage.{step.name}",
            )


def _require_known(given: str, names: list[str], key: str) -> None:
    if given not in names:
        raise ConfigError(f"{key}={given!r} is not an earlier stage: {nearest(given, names)}")
