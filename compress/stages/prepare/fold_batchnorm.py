"""Batch normalisation folded into the convolutions and linear layers before it (Jacob et al. 2018, section 3.2)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar

from compress.errors import Refusal
from compress.stage import Context, Stage
from compress.target import Target
from compress.types import Artifact, Format, Precision

if TYPE_CHECKING:
    from torch import nn

    from compress.types import InputSpec

__all__ = ["FoldBatchnorm"]


class FoldBatchnorm(Stage):
    """Same outputs, fewer operators: each normalisation that only follows one layer moves into that layer's weights.

    The pairs are read off the captured graph, so a shared or branching layer is never folded by mistake; what stays is
    logged with the reason. Zeros of pruned weights stay zeros.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    produces: ClassVar[Format] = Format.TORCH
    why_not_onnx: ClassVar[str | None] = "exporters fold BatchNorm on the way to ONNX already"

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse an input whose weights are rounded already: folding would round them again."""
        if precision is not Precision.FP32:
            raise Refusal(
                f"stage {name!r} folds fp32 weights, but its input is already {precision}",
                fix=f"fold first: stage.{name}.before=<the stage that makes it {precision}>",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Fold a copy of the module; an `nn.Module` stays one, a captured graph stays a graph.

        Raises:
            ModelError: the module cannot be captured.
        """
        folded, count, kept = _fold(artifact.module, artifact.input)
        for line in kept:
            context.progress.log(f"{context.name}: {line}")
        context.progress.log(f"{context.name}: folded {count} batch normalisation(s)")
        return artifact.after(context.name, folded)


def _fold(module: nn.Module, input: InputSpec) -> tuple[nn.Module, int, list[str]]:
    from torch import fx

    from compress.graph import capture
    from compress.quantization.batchnorm import fold_graph, fold_module

    graph = capture(module, input)
    if not isinstance(module, fx.GraphModule):
        return fold_module(module, graph)
    graph = copy.deepcopy(graph)
    count, kept = fold_graph(graph)
    return graph, count, kept
