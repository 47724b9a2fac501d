"""Depth pruning: whole residual branches leave the network, the least needed first."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from compress.core.artifact import Artifact
from compress.core.errors import StageError
from compress.core.stage import Context
from compress.pruning.budget import Budget, BudgetStage

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compress.pruning.blocks import Block
    from compress.pruning.shapes import LayerShape

__all__ = ["Depth"]


class Depth(BudgetStage):
    """Drop residual branches `x + f(x)`, one after the other, until the network costs `keep` of what it did.

    Fewer layers are faster than thinner ones: what a layer costs besides its arithmetic goes, too. Next goes the branch
    that changes the class probabilities least for what it saves, measured anew on the calibration images after each one
    (Elkerdawy et al. 2020, "To filter prune, or to layer prune, that is the question"). Branches that change the number
    of channels or the resolution have no equal input and stay.

    Attributes:
        samples: calibration images looked at.
        batch_size: of them at a time.
        exclude: names or patterns of blocks or enclosing modules to leave alone.
    """

    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

    samples: Annotated[int, Field(ge=1)] = 128
    batch_size: Annotated[int, Field(ge=1)] = 64

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Drop branches of a copy of the module.

        Raises:
            StageError: no such branch, a pattern that matches nothing, or a budget that cannot be met.
            ModelError: the module cannot be captured.
        """
        from compress.pruning.shapes import layer_shapes

        module = copy.deepcopy(artifact.module).eval()
        blocks = self._blocks(module, artifact, context.name)
        shapes = layer_shapes(module, artifact.input)
        budget = self.budget(shapes, context, lanes=1)
        goal = _Goal(budget, {block.name: _saving(block, shapes, budget) for block in blocks})
        _require_reachable(goal, context.name)
        images = self._images(artifact, context)
        dropped = _drop_until(module, {block.name: block for block in blocks}, goal, images, context)
        after = budget.before - sum(goal.savings[name] for name in dropped)
        context.progress.log(
            f"{context.name}: {budget.describe(after)}, dropped {len(dropped)} of {len(blocks)} residual branches: "
            f"{', '.join(dropped)}"
        )
        return artifact.after(context.name, module)

    def _blocks(self, module: nn.Module, artifact: Artifact, stage: str) -> list[Block]:
        from compress.pruning.blocks import find_blocks
        from compress.pruning.names import matching, require_matches

        blocks = find_blocks(module, artifact.input)
        if not blocks:
            raise StageError(
                f"stage {stage!r}: the model has no residual branch that can be dropped", fix=f"~stage.{stage}"
            )
        require_matches([layer for block in blocks for layer in block.layers], self.exclude, stage)
        return [block for block in blocks if not matching((block.name, *block.layers), self.exclude)]

    def _images(self, artifact: Artifact, context: Context) -> list[torch.Tensor]:
        import torch

        batches = islice(context.splits.calibration.batches(self.batch_size), -(-self.samples // self.batch_size))
        images = torch.cat([torch.from_numpy(batch.images) for batch in batches])[: self.samples]
        return list(images.split(self.batch_size if artifact.dynamic_batch else 1))


@dataclass(frozen=True)
class _Goal:
    """The budget, and what each block saves of it, by name."""

    budget: Budget
    savings: dict[str, float]


def _saving(block: Block, shapes: dict[str, LayerShape], budget: Budget) -> float:
    return sum(budget.cost(shape) for name, shape in shapes.items() if name in block.layers)


def _require_reachable(goal: _Goal, stage: str) -> None:
    least = goal.budget.before - sum(goal.savings.values())
    if least > goal.budget.limit:
        raise StageError(
            f"stage {stage!r}: {goal.budget.limit / goal.budget.before:.0%} of the {goal.budget.unit} cannot be "
            f"reached: {least / goal.budget.before:.0%} stay when every residual branch that may go is dropped",
            fix=f"a higher stage.{stage}.keep, and structured for the rest",
        )


def _drop_until(
    module: nn.Module, blocks: dict[str, Block], goal: _Goal, images: list[torch.Tensor], context: Context
) -> list[str]:
    """Drop blocks of `module` in place until the budget is met; their names in the order in which they went."""
    import torch

    from compress.pruning.blocks import drop, drop_damage

    with torch.no_grad():
        expected = [module(batch) for batch in images]
    left, cost = dict(blocks), goal.budget.before
    dropped: list[str] = []
    while cost > goal.budget.limit:
        damage = drop_damage(module, context.progress.track(left.values(), context.name), images, expected)
        enough = [name for name in left if cost - goal.savings[name] <= goal.budget.limit]
        name = min(enough or left, key=lambda name: damage[name] / max(goal.savings[name], 1e-12))
        drop(module, left.pop(name))
        dropped.append(name)
        cost -= goal.savings[name]
    return dropped
