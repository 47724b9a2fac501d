"""Unstructured L1 magnitude pruning, made permanent (Han et al. 2015, "Learning both Weights and Connections", §3)."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from compress.errors import Refusal, StageError
from compress.stage import Context, Stage
from compress.target import Target
from compress.types import Artifact, Format, Precision

if TYPE_CHECKING:
    import torch

    from compress.weights import Weight

__all__ = ["Magnitude"]


class Magnitude(Stage):
    """Set the weights of smallest absolute value to zero, in convolutions and linear layers; biases stay.

    Exactly `round(amount * n)` of `n` weights are zero afterwards (more if more were zero before: zeros count as
    pruned). Among equal magnitudes the first in memory order go first, so the result is the same on every machine.

    Attributes:
        amount: share of the weights that are zero afterwards.
        scope: `local` takes that share of every layer, `global` of all layers together.
        exclude: names or `fnmatch` patterns of layers, enclosing modules or parameters to leave alone.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    produces: ClassVar[Format] = Format.TORCH
    why_not_onnx: ClassVar[str | None] = "the weights of an ONNX file are frozen; prune the PyTorch model it came from"

    amount: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.3
    scope: Literal["local", "global"] = "global"
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = ()

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
        from compress.weights import compute_weights

        module = copy.deepcopy(artifact.module)
        weights = _selected(compute_weights(module), self.exclude, context.name)
        _require_editable(weights, module, context.name)
        zeros_before = {weight.name: weight.zeros() for weight in weights}
        groups = [weights] if self.scope == "global" else [[weight] for weight in weights]
        for group in groups:
            prune_smallest([weight.tensor for weight in group], self.amount)
        _log_emptied(weights, zeros_before, context)
        return artifact.after(context.name, module)


def prune_smallest(tensors: Sequence[torch.Tensor], amount: float) -> None:
    """Zero, in place, the `round(amount * n)` elements of smallest magnitude among all `n` elements of `tensors`.

    The threshold is the k-th smallest magnitude; elements that tie with it go in memory order until k are reached.
    """
    import torch

    scores = torch.cat([_magnitudes(tensor) for tensor in tensors])
    count = round(amount * scores.numel())
    if count == 0:
        return
    threshold = scores.kthvalue(count).values
    mask = scores < threshold
    ties = (scores == threshold).nonzero().flatten()
    mask[ties[: count - int(mask.sum())]] = True
    with torch.no_grad():
        for tensor, part in zip(tensors, mask.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.masked_fill_(part.view(tensor.shape), 0)


def _magnitudes(tensor: torch.Tensor) -> torch.Tensor:
    """Absolute values, flat `[n]`, in at least float32 (half floats have no `kthvalue` on CPU)."""
    import torch

    return tensor.detach().abs().flatten().to(torch.promote_types(tensor.dtype, torch.float32))


def _selected(weights: Sequence[Weight], patterns: tuple[str, ...], stage: str) -> list[Weight]:
    """The weights that no pattern names."""
    if not weights:
        raise StageError(
            f"stage {stage!r}: the model has no convolution or linear layer with stored weights", fix=f"~stage.{stage}"
        )
    names = {weight.name: _names_of(weight) for weight in weights}
    everything = list(dict.fromkeys(name for group in names.values() for name in group))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in everything):
            close = difflib.get_close_matches(pattern, everything, n=5, cutoff=0.3) or everything[:5]
            raise StageError(
                f"stage {stage!r}: exclude pattern {pattern!r} matches no prunable layer",
                fix=f"names near it: {', '.join(close)}",
            )
    kept = [w for w in weights if not any(fnmatchcase(name, p) for name in names[w.name] for p in patterns)]
    if not kept:
        raise StageError(f"stage {stage!r}: exclude leaves no layer to prune", fix=f"~stage.{stage}")
    return kept


def _names_of(weight: Weight) -> list[str]:
    """What a pattern may say to mean this weight: every enclosing module, the layer, the parameter."""
    parts = weight.name.split(".")
    return [*(".".join(parts[:end]) for end in range(1, len(parts) + 1)), weight.layer]


def _require_editable(weights: Sequence[Weight], module: torch.nn.Module, stage: str) -> None:
    from compress.weights import named_tensors

    stored = named_tensors(module)
    for weight in weights:
        if stored.get(weight.name) is not weight.tensor or not weight.tensor.is_floating_point():
            raise StageError(
                f"stage {stage!r}: the weight of {weight.layer!r} is computed or packed "
                "(parametrization, weight norm, pruning mask or quantization)",
                fix=f"make it permanent in the model, or stage.{stage}.exclude=[{weight.layer}]",
            )
        if not bool(weight.tensor.isfinite().all()):
            raise StageError(
                f"stage {stage!r}: the weight of {weight.layer!r} holds NaN or infinity",
                fix="check the checkpoint; it did not train to finite values",
            )


def _log_emptied(weights: Sequence[Weight], zeros_before: dict[str, int], context: Context) -> None:
    """An emptied layer outputs only its bias; that is rarely what was wanted, so say which."""
    emptied = [
        weight.layer for weight in weights if zeros_before[weight.name] < weight.zeros() == weight.tensor.numel()
    ]
    if emptied:
        context.progress.log(f"{context.name}: every weight became zero in {', '.join(emptied)}")
