"""Unstructured L1 magnitude pruning, made permanent (Han et al. 2015, "Learning both Weights and Connections", §3)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from compress.core.artifact import Artifact, Format, Precision
from compress.core.budget import Limits, in_points
from compress.core.errors import Refusal
from compress.core.stage import Context, Stage, maker_of
from compress.core.target import Target

if TYPE_CHECKING:
    from torch import nn

    from compress.core.budget import Verdict
    from compress.core.stage import BudgetJudge
    from compress.graph.weights import Weight
    from compress.pruning.sensitivity import Weights

__all__ = ["Magnitude"]

_SHARE = 0.5
"""Of the run's budget, its points and its noise: quantization follows and needs the other half."""

_SCAN_IMAGES, _FEWEST = 32, 4
"""On which each layer is tried alone to find their order; half a batch where the network is large. Only the order
depends on them: how much is pruned is judged on the validation images."""

Ratio = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class Magnitude(Stage):
    """Set the weights of smallest absolute value to zero, in convolutions and linear layers; biases stay.

    Exactly `round(amount * n)` of `n` weights are zero afterwards (more if more were zero before: zeros count as
    pruned). Among equal magnitudes the first in memory order go first, so the result is the same on every machine.

    That many zeros are made where they cost at most half of the run's accuracy budget. Where they would cost more, each
    layer is tried alone, and as many weights go as fit, those first that the outputs notice least; possibly none.

    Attributes:
        amount: share of the weights that are zero afterwards; less where the budget of the run does not allow it.
        scope: `local` takes that share of every layer, `global` of all layers together, `sensitivity` more of the
            layers in which it raises the loss on validation images less, found by a scan.
        scan_ratios: shares that the scan tries.
        scan_samples: validation images that it looks at.
        exclude: names or `fnmatch` patterns of layers, enclosing modules or parameters to leave alone.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    produces: ClassVar[Format] = Format.TORCH
    why_not_onnx: ClassVar[str | None] = "the weights of an ONNX file are frozen; prune the PyTorch model it came from"

    data_used: ClassVar[tuple[str, ...]] = ("validation",)
    held: ClassVar[bool] = True

    amount: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.3
    scope: Literal["local", "global", "sensitivity"] = "global"
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    scan_ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    scan_samples: Annotated[int, Field(ge=1)] = 128

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse an input that is no longer FP32: zeros are chosen by exact magnitude, before anything rounds it."""
        if precision is not Precision.FP32:
            raise Refusal(
                f"stage {name!r} prunes fp32 weights, but its input is already {precision}",
                fix=f"prune first: stage.{name}.before={maker_of(precision)}",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Prune a copy of the module.

        Raises:
            StageError: nothing to prune, a pattern that matches nothing, or weights that are not finite or not stored.
        """
        from compress.pruning.unstructured import prunable_weights, prune_smallest

        module = copy.deepcopy(artifact.module)
        weights = prunable_weights(module, self.exclude, context.name)
        zeros_before = {weight.name: weight.zeros() for weight in weights}
        if self.scope == "global":
            prune_smallest([weight.tensor for weight in weights], self.amount)
        else:
            for weight, share in zip(weights, self._shares(weights, artifact, module, context), strict=True):
                prune_smallest([weight.tensor], share)
        notes: dict[str, str] = {}
        if context.judge is not None and any(weight.zeros() > zeros_before[weight.name] for weight in weights):
            module, notes = self._held(artifact, module, context.judge, context)
            weights = prunable_weights(module, self.exclude, context.name)
        _log_emptied(weights, zeros_before, context)
        return artifact.after(context.name, module, notes=notes)

    def _held(
        self, artifact: Artifact, pruned: nn.Module, judge: BudgetJudge, context: Context
    ) -> tuple[nn.Module, dict[str, str]]:
        """The pruned module if it keeps within its share of the budget, else one that does; and what was done."""
        limits = _limits(judge)
        verdict = judge(replace(artifact, model=pruned))
        if limits.met_by(verdict):
            return pruned, {}
        whole = copy.deepcopy(artifact.module)
        too_many = f"{self.amount:.0%} zeros would break the budget ({in_points(verdict)}: {limits.shortfall(verdict)})"
        before = judge(artifact)
        if not limits.met_by(before):
            did = f"{too_many}; what came in does already ({in_points(before)}), so nothing was pruned"
        else:
            did = f"{too_many}; {self._backed_off(artifact, whole, judge, context)}"
        context.progress.log(f"{context.name}: {did}")
        return whole, {"budget": f"{did}; budget=off keeps the {self.amount:.0%}"}

    def _backed_off(self, artifact: Artifact, module: nn.Module, judge: BudgetJudge, context: Context) -> str:
        """Prune `module` as far as its share of the budget allows; in words."""
        from compress.pruning.back_off import fit_amount
        from compress.pruning.from_layer import runner_from
        from compress.pruning.unstructured import prunable_weights

        weights = prunable_weights(module, self.exclude, context.name)
        copied = replace(artifact, model=module)
        layers, run = runner_from(copied) or (None, None)
        images = max(_FEWEST, artifact.fitting(2 * _SCAN_IMAGES) // 2)

        def alone(layer: Weights) -> Verdict:
            if layers is not None:
                layers.start_at(layer.weight)
            return judge(copied, images=images, run=run)

        def shown(trials: Sequence[Weights]) -> Iterable[Weights]:
            ordered = trials if layers is None else sorted(trials, key=lambda trial: layers.place(trial.weight))
            return context.progress.track(ordered, f"{context.name}: layers alone", len(ordered))

        fitted = fit_amount(weights, self.amount, lambda: judge(copied), _limits(judge).excess, alone, shown)
        cost = f"{fitted.scanned} layers tried alone, {fitted.verdicts} amounts"
        if fitted.verdict is None:
            return f"none fit, so nothing was pruned ({cost})"
        return f"backed off to {fitted.amount:.1%}, by layer: {in_points(fitted.verdict)} ({cost})"

    def _shares(
        self, weights: Sequence[Weight], artifact: Artifact, module: nn.Module, context: Context
    ) -> list[float]:
        """Share of each layer that goes."""
        if self.scope == "local" or not self.amount:
            return [self.amount] * len(weights)
        from compress.pruning.sensitivity import Weights, scan, shares_within
        from compress.pruning.validation import Judge

        judge = Judge(artifact, context, self.scan_samples)
        parts = context.progress.track([Weights(weight) for weight in weights], f"{context.name}: scan")
        curves = scan(parts, sorted(self.scan_ratios), lambda: judge(module), judge(module))
        shares = shares_within(curves, self.amount)
        return [shares[weight.layer] for weight in weights]


def _limits(judge: BudgetJudge) -> Limits:
    return Limits(judge.budget.drop or 0.0, share=_SHARE)


def _log_emptied(weights: Sequence[Weight], zeros_before: dict[str, int], context: Context) -> None:
    """An emptied layer outputs only its bias; that is rarely what was wanted, so say which."""
    emptied = [
        weight.layer for weight in weights if zeros_before[weight.name] < weight.zeros() == weight.tensor.numel()
    ]
    if emptied:
        context.progress.log(f"{context.name}: every weight became zero in {', '.join(emptied)}")
