"""Structured pruning: channels and attention heads leave the network, which becomes an ordinary smaller one."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from compress.core.artifact import Artifact
from compress.core.stage import Context
from compress.pruning.budget import Budget, BudgetStage

if TYPE_CHECKING:
    from compress.pruning.allocate import Candidate, Damage, Plan
    from compress.pruning.network import Network

__all__ = ["Structured"]

Ratio = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]

_COST_POWER = {"uniform": 0.0, "global": 0.5, "sensitivity": 1.0}
"""How much it counts what a cut saves. Importance is no loss: on the embedded model at 70 to 90 % of the MACs the
square root did best or near it with every criterion, 0 and 1 each failed with some."""


class Structured(BudgetStage):
    """Cut whole channels and heads until the network costs `keep` of what it did; every dense runtime gains from it.

    Layers that are tied by an addition, a concatenation or a depthwise convolution are cut together. Each such group
    first proves that removing channels equals zeroing them; those that cannot (a channel shuffle, a padded shortcut,
    sizes written as numbers in the model's code) stay whole. Goes before `fold_batchnorm`, so that a fine-tuning after
    it still has its normalisation.

    Attributes:
        criterion: `l1`, `l2`, `bn_gamma` or `taylor`, by which channels are ranked within a layer.
        scope: `uniform` takes the same share of every layer; `global` takes more where less importance is lost for the
            cost saved; `sensitivity` where the loss on validation images rises less for it, found by a scan.
        round_to: channels are left in multiples of this; 8 suits INT8 on Arm and TensorRT.
        max_removed: largest share of a layer's channels that may go.
        exclude: names or patterns of layers or enclosing modules that keep all their outputs.
        batches: batches of the fine-tuning split that `taylor` looks at.
        batch_size: samples in each.
        scan_ratios: shares that the scan tries.
        scan_samples: validation images that it looks at.
    """

    data_used: ClassVar[tuple[str, ...]] = ("finetune", "validation")

    criterion: Literal["l1", "l2", "bn_gamma", "taylor"] = "l2"
    scope: Literal["uniform", "global", "sensitivity"] = "global"
    round_to: Annotated[int, Field(ge=1)] = 8
    max_removed: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.9
    batches: Annotated[int, Field(ge=1)] = 16
    batch_size: Annotated[int, Field(ge=1)] = 64
    scan_ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.25, 0.5, 0.75)
    scan_samples: Annotated[int, Field(ge=1)] = 128

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Cut a copy of the module.

        Raises:
            StageError: a module that cannot be traced, shared weights, a pattern that matches nothing, or a budget that
                cannot be met.
        """
        import torch

        from compress.pruning.network import analyse

        network = analyse(artifact.module, artifact.input, self.exclude, context.name, context.seed)
        budget = self.budget(network.shapes, context, lanes=self.round_to)
        plan = self._plan(network, budget, artifact, context)
        network.remove(plan.removed, torch.zeros(1, *artifact.input.shape), context.name)
        _log(network, plan, budget, context)
        return artifact.after(context.name, network.module)

    def _plan(self, network: Network, budget: Budget, artifact: Artifact, context: Context) -> Plan:
        from compress.pruning.allocate import allocate, candidates
        from compress.pruning.importance import unit_importance

        batch_size = self.batch_size if artifact.dynamic_batch else 1
        samples = context.splits.finetune.batches(batch_size) if self.criterion == "taylor" else iter(())
        importance = unit_importance(network, self.criterion, islice(samples, self.batches), context.name)
        prunable = candidates(network.groups, importance, multiple=self.round_to, max_removed=self.max_removed)
        damage, power = self._damage(prunable, network, artifact, context), _COST_POWER[self.scope]
        return allocate(prunable, network.shapes, budget, damage, cost_power=power, stage=context.name)

    def _damage(self, prunable: list[Candidate], network: Network, artifact: Artifact, context: Context) -> Damage:
        from compress.pruning.allocate import even, relative_importance

        if self.scope != "sensitivity":
            return even if self.scope == "uniform" else relative_importance
        from compress.pruning.sensitivity import Channels, CurveDamage, scan
        from compress.pruning.validation import Judge

        judge = Judge(artifact, context, self.scan_samples)
        parts = [Channels(candidate, network.module) for candidate in prunable]
        whole = judge(network.module)
        tracked = context.progress.track(parts, f"{context.name}: scan", total=len(parts))
        return CurveDamage(scan(tracked, sorted(self.scan_ratios), lambda: judge(network.module), whole))


def _log(network: Network, plan: Plan, budget: Budget, context: Context) -> None:
    removed = sum(len(plan.removed.get(group.name, ())) * group.width for group in network.groups)
    context.progress.log(
        f"{context.name}: {budget.describe(plan.after)}, {removed} channels cut from {len(plan.removed)} of "
        f"{len(network.groups)} groups of layers"
    )
    if network.held:
        more = f" and {len(network.held) - 4} more" if len(network.held) > 4 else ""
        context.progress.log(
            f"{context.name}: {', '.join(network.held[:4])}{more} stay whole: cutting their channels would not equal "
            "zeroing them"
        )
