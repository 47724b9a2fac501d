"""Check every stage against the target before any work, then know which stage feeds which.

Pipeline.check(target, stages, source, asked)  ->  Pipeline(steps, left_out)      refuses with the reason and the fix
pipeline.foresee(model)                        refuses what would fail hours later
execute(pipeline, ...)                         ->  see compress/pipeline/execute.py
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import ConfigError, Refusal, nearest
from compress.core.stage import ExportStage, LeftOut, Stage, maker_of
from compress.core.target import Target
from compress.formats.registry import open_file

__all__ = ["SOURCE", "Pipeline", "Step"]

SOURCE = "source"
"""Name of the model as loaded, before any stage."""


@dataclass(frozen=True)
class Step:
    """One stage in its place: `feed` names the earlier step (or `source`) whose output it takes.

    Attributes:
        recovered: a later step trains back what is lost here.
    """

    name: str
    stage: Stage
    feed: str
    format: Format
    precision: Precision
    recovered: bool = False

    @property
    def baseline(self) -> bool:
        """Tell whether its file is only there to be compared with."""
        return isinstance(self.stage, ExportStage) and self.stage.baseline


@dataclass(frozen=True)
class Pipeline:
    """A recipe that has been held against its target and the model it starts from.

    Attributes:
        left_out: stages of the recipe, which nobody asked for by name, that cannot take this model.
    """

    target: Target
    steps: tuple[Step, ...]
    left_out: tuple[LeftOut, ...] = ()

    @classmethod
    def check(
        cls, target: Target, stages: Mapping[str, Stage], source: Format, asked: frozenset[str] | None = None
    ) -> Pipeline:
        """Order the stages, wire each to its input and hold it against the target.

        A stage takes the newest earlier output in a format it accepts, baselines passed over, or the one its `source`
        names.

        Args:
            asked: stages the user named; the others are left out where they cannot take the model. None: all of them.

        Raises:
            Refusal: the target cannot use a stage, a stage has no usable input, or nothing would use its output.
            ConfigError: `source` or `before` names an unknown stage.
        """
        route = _Route(source, frozenset(stages) if asked is None else asked)
        for name, stage in _ordered(stages).items():
            output = route.feed(name, stage)
            if output is not None:
                _require(stage, target, output.precision, name, route.maker(output))
                route.steps.append(
                    Step(
                        name,
                        stage,
                        output.name,
                        stage.produces or output.format,
                        stage.precision_from(output.precision),
                    )
                )
        _refuse_unused(route.steps)
        return cls(target, _recovered(route.steps), tuple(route.left_out))

    def foresee(self, source: Artifact) -> None:
        """Let the first exporter refuse at once what it would refuse after hours of training or searching.

        What comes right after stages that change nothing is found out soon enough by running it.

        Raises:
            StageError, ModelError: the exporter's own refusal.
        """
        position = next((index for index, step in enumerate(self.steps) if step.format is not Format.TORCH), None)
        if position is None or source.precision is not Precision.FP32:
            return
        if any(step.stage.equal_on() == 0 for step in self.steps[:position]):
            exporter = self.steps[position]
            exporter.stage.foresee(source if exporter.feed == SOURCE else _as_module(source), self.target)


def _as_module(source: Artifact) -> Artifact:
    """Convert a file as stages that take modules do."""
    return replace(source, format=Format.TORCH, model=open_file(source).as_module())


@dataclass(frozen=True)
class _Output:
    """Output that a step, or the source, hands on."""

    name: str
    format: Format
    precision: Precision
    baseline: bool = False


class _Route:
    """Route through the stages, found stage by stage: which one feeds which.

    Attributes:
        steps: those that run, so far.
        left_out: those that do not.
    """

    def __init__(self, source: Format, asked: frozenset[str]) -> None:
        self.steps: list[Step] = []
        self.left_out: list[LeftOut] = []
        self._source = source
        self._asked = asked
        self._before: dict[str, int] = {}
        """Number of steps before each stage that was left out."""

    def feed(self, name: str, stage: Stage) -> _Output | None:
        """The output that `stage` takes; None when it is left out."""
        outputs = self._offered(name, stage)
        output = next((candidate for candidate in reversed(outputs) if candidate.format in stage.accepts), None)
        if output is None:
            self._leave_out(name, stage, outputs)
        return output

    def maker(self, output: _Output) -> str:
        """The stage that gave `output` its precision; the source where none did."""
        steps = {step.name: step for step in self.steps}
        name = output.name
        while name in steps and self._precision(steps[name].feed) is output.precision:
            name = steps[name].feed
        return name

    def _precision(self, name: str) -> Precision:
        return next((step.precision for step in self.steps if step.name == name), Precision.FP32)

    def _offered(self, name: str, stage: Stage) -> list[_Output]:
        """The outputs that `stage` may choose from, oldest first."""
        outputs = self._outputs(len(self.steps))
        if stage.source is None:
            return [output for output in outputs if not output.baseline]
        if stage.source in self._before:
            return self._in_place_of(stage.source, name)
        _require_known(stage.source, [output.name for output in outputs], f"stage.{name}.source")
        return [output for output in outputs if output.name == stage.source]

    def _in_place_of(self, absent: str, name: str) -> list[_Output]:
        """Outputs that a stage that was left out had before it, for one whose `source` names it."""
        if name in self._asked:
            reason = next(entry.reason for entry in self.left_out if entry.stage == absent)
            raise Refusal(f"stage.{name}.source={absent} is left out: {reason}", fix=f"stage.{name}.source=null")
        return [entry for entry in self._outputs(self._before[absent]) if not entry.baseline]

    def _outputs(self, steps: int) -> list[_Output]:
        outputs = [_Output(step.name, step.format, step.precision, step.baseline) for step in self.steps[:steps]]
        return [_Output(SOURCE, self._source, Precision.FP32), *outputs]

    def _leave_out(self, name: str, stage: Stage, outputs: Sequence[_Output]) -> None:
        """Go on without a stage that a PyTorch model could have used; refuse any other that has no input."""
        foreign = self._source is not Format.TORCH and Format.TORCH in stage.accepts
        promised = stage.precision_from(Precision.FP32) is not Precision.FP32
        reason = f": {stage.why_not_onnx}" if self._source is not Format.TORCH and stage.why_not_onnx else ""
        accepted = " or ".join(sorted(kind.value for kind in stage.accepts))
        if foreign and not promised and name not in self._asked:
            self._before[name] = len(self.steps)
            self.left_out.append(LeftOut(name, f"it takes {accepted} and the model is {self._source}{reason}"))
            return
        formats = " and ".join(sorted({output.format.value for output in outputs}))
        raise Refusal(
            f"stage {name!r} takes {accepted}, but only {formats} comes before it{reason}",
            fix=self._way_out(name, stage),
        )

    def _way_out(self, name: str, stage: Stage) -> str:
        baseline = next((output for output in self._outputs(len(self.steps)) if output.baseline), None)
        if stage.source is None and baseline is not None and baseline.format in stage.accepts:
            return f"stage.{name}.source={baseline.name} or ~stage.{name}"
        return f"~stage.{name}"


def _require(stage: Stage, target: Target, precision: Precision, name: str, maker: str) -> None:
    """Hold a stage against the target; its fix names the stage that made the input what it is."""
    try:
        stage.requires(target, precision, name)
    except Refusal as refusal:
        if refusal.fix is None or maker_of(precision) not in refusal.fix:
            raise
        raise Refusal(refusal.problem, fix=refusal.fix.replace(maker_of(precision), maker)) from None


def _recovered(steps: list[Step]) -> tuple[Step, ...]:
    """The steps, with a mark on those that a later one trains back."""
    last = max((position for position, step in enumerate(steps) if step.stage.recovers), default=0)
    return tuple(replace(step, recovered=position < last) for position, step in enumerate(steps))


def _ordered(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stages in recipe order, those with `before` moved to just before the stage they name."""
    names = list(stages)
    for name, stage in stages.items():
        if stage.before is not None:
            _require_known(stage.before, names, f"stage.{name}.before")
            names.remove(name)
            names.insert(names.index(stage.before), name)
    return {name: stages[name] for name in names}


def _refuse_unused(steps: list[Step]) -> None:
    """A module that no later stage takes would be computed and ignored."""
    delivered = [step for step in steps if not step.baseline]
    if all(step.format is Format.TORCH for step in delivered):
        return
    used = {step.feed for step in steps}
    for step in steps:
        if step.format is Format.TORCH and step.name not in used:
            raise Refusal(
                f"stage {step.name!r}: nothing after it uses its output",
                fix=f"stage.{step.name}.before={_place_for(step.stage, delivered)} or ~stage.{step.name}",
            )


def _place_for(stage: Stage, delivered: list[Step]) -> str:
    """The step before which `stage` has its place: the first exporter, or the quantizer if it is none itself."""
    quantizes = stage.precision_from(Precision.FP32) is not Precision.FP32
    for step in delivered:
        if step.format is not Format.TORCH or (step.precision is not Precision.FP32 and not quantizes):
            return step.name
    raise AssertionError("only asked where something is exported")


def _require_known(source: str, names: list[str], key: str) -> None:
    if source not in names:
        raise ConfigError(f"{key}={source!r} is not an earlier stage: {nearest(source, names)}")
