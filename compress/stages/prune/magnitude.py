"""Unstructured L1 magnitude pruning, made permanent (Han et al. 2015, "Learning both Weights and Connections", §3)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from compress.errors import Refusal
from compress.stage import Context, Stage
from compress.target import Target
from compress.types import Artifact, Format, Precision

if TYPE_CHECKING:
    from torch import nn

    from compress.weights import Weight

__all__ = ["Magnitude"]

Ratio = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class Magnitude(Stage):
    """Set the weights of smallest absolute value to zero, in convolutions and linear layers; biases stay.

    Exactly `round(amount * n)` of `n` weights are zero afterwards (more if more were zero before: zeros count as
    pruned). Among equal magnitudes the first in memory order go first, so the result is the same on every machine.

    Attributes:
        amount: share of the weights that are zero afterwards.
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
                fix=f"prune first: stage.{name}.before=<the stage that makes it {precision}>",
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
            for weight, share in zip(weights, self._shares(weights, module, context), strict=True):
                prune_smallest([weight.tensor], share)
        _log_emptied(weights, zeros_before, context)
        return artifact.after(context.name, module)

    def _shares(self, weights: Sequence[Weight], module: nn.Module, context: Context) -> list[float]:
        """Share of each layer that goes."""
        if self.scope == "local" or not self.amount:
            return [self.amount] * len(weights)
        from compress.pruning.sensitivity import Weights, scan, shares_within
        from compress.pruning.validation import Judge

        judge = Judge(context, self.scan_samples)
        parts = context.progress.track([Weights(weight) for weight in weights], f"{context.name}: scan")
        curves = scan(parts, sorted(self.scan_ratios), lambda: judge(module), judge(module))
        shares = shares_within(curves, self.amount)
        return [shares[weight.layer] for weight in weights]


def _log_emptied(weights: Sequence[Weight], zeros_before: dict[str, int], context: Context) -> None:
    """An emptied layer outputs only its bias; that is rarely what was wanted, so say which."""
    emptied = [
        weight.layer for weight in weights if zeros_before[weight.name] < weight.zeros() == weight.tensor.numel()
    ]
    if emptied:
        context.progress.log(f"{context.name}: every weight became zero in {', '.join(emptied)}")
