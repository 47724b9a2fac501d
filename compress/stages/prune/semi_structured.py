"""2:4 semi-structured pruning: the pattern that sparse tensor cores skip."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import Refusal, StageError
from compress.core.stage import Context, Stage, maker_of
from compress.core.target import Target

if TYPE_CHECKING:
    from torch import nn

    from compress.graph.weights import Weight

__all__ = ["SemiStructured"]


class SemiStructured(Stage):
    """Keep, of every `m` consecutive input channels, the `n` weights of largest magnitude, for each output.

    Layers whose inputs are no multiple of `m`, and grouped convolutions, stay dense. A fine-tuning after it keeps the
    zeros where they are (`keep_zeros`), and so the pattern; so does quantization.

    Attributes:
        n, m: at most n non-zeros in m. Hardware runs 2:4.
        exclude: names or patterns of layers, enclosing modules or parameters to leave alone.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    produces: ClassVar[Format] = Format.TORCH
    why_not_onnx: ClassVar[str | None] = "the weights of an ONNX file are frozen; prune the PyTorch model it came from"

    n: Annotated[int, Field(ge=1)] = 2
    m: Annotated[int, Field(ge=2)] = 4
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    @model_validator(mode="after")
    def _some_go(self) -> SemiStructured:
        if self.n >= self.m:
            raise ValueError(f"n={self.n} must be below m={self.m}, or nothing is pruned")
        return self

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse a target whose runtime does not skip these zeros, and an input that is no longer FP32."""
        target.require_sparse_weights(f"{self.n}:{self.m}", stage=name)
        if precision is not Precision.FP32:
            raise Refusal(
                f"stage {name!r} prunes fp32 weights, but its input is already {precision}",
                fix=f"prune first: stage.{name}.before={maker_of(precision)}",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Prune a copy of the module.

        Raises:
            StageError: no layer can take the pattern, or an exclude pattern matches nothing.
        """
        from compress.pruning.n_m import prune_n_m
        from compress.pruning.unstructured import prunable_weights

        module = copy.deepcopy(artifact.module)
        weights = prunable_weights(module, self.exclude, context.name)
        fitting = self._fitting(weights, module, context)
        for weight in fitting:
            prune_n_m(weight.tensor, self.n, self.m)
        context.progress.log(f"{context.name}: {self.n}:{self.m} pattern in {len(fitting)} of {len(weights)} layers")
        return artifact.after(context.name, module)

    def _fitting(self, weights: list[Weight], module: nn.Module, context: Context) -> list[Weight]:
        from compress.pruning.n_m import why_not

        reasons = {weight.layer: why_not(weight, module, self.m) for weight in weights}
        for layer, reason in reasons.items():
            if reason:
                context.progress.log(f"{context.name}: {layer} stays dense: {reason}")
        fitting = [weight for weight in weights if reasons[weight.layer] is None]
        if not fitting:
            raise StageError(
                f"stage {context.name!r}: no layer can take the {self.n}:{self.m} pattern: "
                f"{weights[0].layer}: {reasons[weights[0].layer]}",
                fix=f"~stage.{context.name}",
            )
        return fitting
