"""Structured pruning: channels and attention heads leave the network, which becomes an ordinary smaller one."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from compress.errors import Refusal
from compress.stage import Context, Stage
from compress.target import Target
from compress.types import Artifact, Format, Precision

if TYPE_CHECKING:
    from compress.pruning.allocate import Plan
    from compress.pruning.cost import Cost
    from compress.pruning.network import Network

__all__ = ["Structured"]

_UNITS = {"macs": "MACs", "parameters": "parameters", "latency": "latency"}


class Structured(Stage):
    """Cut whole channels and heads until the network costs `keep` of what it did; every dense runtime gains from it.

    Layers that are tied by an addition, a concatenation or a depthwise convolution are cut together. Each such group
    first proves that removing channels equals zeroing them; those that cannot (a channel shuffle, a padded shortcut,
    sizes written as numbers in the model's code) stay whole. Goes before `fold_batchnorm`, so that a fine-tuning after
    it still has its normalisation.

    Attributes:
        keep: share of the cost that is left.
        of: the cost: `macs`, `parameters`, or `latency` on the target (estimated, or from `layer_times`).
        latency_ms: absolute budget in milliseconds on the target instead of `keep`; implies `of=latency`.
        layer_times: JSON file `{"<layer>": <ms>}` measured on a device, in place of the estimate.
        precision: in which the layers will run there, for the estimate.
        criterion: `l1`, `l2`, `bn_gamma` or `taylor`, by which channels are ranked within a layer.
        scope: `uniform` takes the same share of every layer, `global` takes more where less is lost for the cost saved.
        round_to: channels are left in multiples of this; 8 suits INT8 on Arm and TensorRT.
        max_removed: largest share of a layer's channels that may go.
        exclude: names or patterns of layers or enclosing modules that keep all their outputs.
        batches: batches of the fine-tuning split that `taylor` looks at.
        batch_size: samples in each.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    produces: ClassVar[Format] = Format.TORCH
    why_not_onnx: ClassVar[str | None] = "the layers of an ONNX file are fixed; prune the PyTorch model it came from"
    data_used: ClassVar[tuple[str, ...]] = ("finetune",)

    keep: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.5
    of: Literal["macs", "parameters", "latency"] = "macs"
    latency_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    layer_times: Path | None = None
    precision: Precision = Precision.FP32
    criterion: Literal["l1", "l2", "bn_gamma", "taylor"] = "l2"
    scope: Literal["uniform", "global"] = "global"
    round_to: Annotated[int, Field(ge=1)] = 8
    max_removed: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.9
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    batches: Annotated[int, Field(ge=1)] = 16
    batch_size: Annotated[int, Field(ge=1)] = 64

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse an input that is no longer FP32, and a latency budget that nothing is known about."""
        if precision is not Precision.FP32:
            raise Refusal(
                f"stage {name!r} prunes fp32 weights, but its input is already {precision}",
                fix=f"prune first: stage.{name}.before=<the stage that makes it {precision}>",
            )
        if self._by_latency:
            from compress.pruning.cost import Roofline

            Roofline.of(target, self.precision, self.round_to)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Cut a copy of the module.

        Raises:
            StageError: a module that cannot be traced, shared weights, a pattern that matches nothing, or a budget that
                cannot be met.
        """
        from compress.pruning.network import analyse

        network = analyse(artifact.module, artifact.input, self.exclude, context.name, context.seed)
        plan = self._plan(network, context)
        network.remove(plan.removed, _image(artifact), context.name)
        self._log(network, plan, context)
        return artifact.after(context.name, network.module)

    @property
    def _by_latency(self) -> bool:
        return self.of == "latency" or self.latency_ms is not None

    def _plan(self, network: Network, context: Context) -> Plan:
        from compress.pruning.allocate import allocate, candidates, even, relative_importance
        from compress.pruning.cost import total
        from compress.pruning.importance import unit_importance

        samples = islice(context.splits.finetune.batches(self.batch_size), self.batches) if self._needs_data else ()
        importance = unit_importance(network, self.criterion, samples, context.name)
        found = candidates(network.groups, importance, multiple=self.round_to, max_removed=self.max_removed)
        cost = self._cost(network, context.target)
        uniform = self.scope == "uniform"
        return allocate(
            found,
            network.shapes,
            cost,
            self.latency_ms or self.keep * total(cost, network.shapes.values()),
            even if uniform else relative_importance,
            per_cost=not uniform,
            stage=context.name,
            unit=_UNITS["latency" if self._by_latency else self.of],
        )

    @property
    def _needs_data(self) -> bool:
        return self.criterion == "taylor"

    def _cost(self, network: Network, target: Target) -> Cost:
        from compress.pruning.cost import Measured, Roofline, macs, parameters, read_layer_times

        if not self._by_latency:
            return macs if self.of == "macs" else parameters
        estimate = Roofline.of(target, self.precision, self.round_to)
        if self.layer_times is None:
            return estimate
        return Measured(read_layer_times(self.layer_times, network.shapes), network.shapes, estimate)

    def _log(self, network: Network, plan: Plan, context: Context) -> None:
        unit = _UNITS["latency" if self._by_latency else self.of]
        estimated = " (estimated)" if self._by_latency and self.layer_times is None else ""
        removed = sum(len(units) * g.width for g in network.groups if (units := plan.removed.get(g.name)))
        context.progress.log(
            f"{context.name}: {plan.after / plan.before:.1%} of the {unit}{estimated} left, {removed} channels cut "
            f"from {len(plan.removed)} of {len(network.groups)} groups of layers"
        )
        if network.held:
            shown = ", ".join(network.held[:4]) + (
                f" and {len(network.held) - 4} more" if len(network.held) > 4 else ""
            )
            context.progress.log(
                f"{context.name}: {shown} stay whole: cutting their channels would not equal zeroing them"
            )


def _image(artifact: Artifact) -> torch.Tensor:
    import torch

    return torch.zeros(1, *artifact.input.shape)


if TYPE_CHECKING:
    import torch
