"""Batch normalisation folded into the convolutions and linear layers before it (Jacob et al. 2018, section 3.2)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import Refusal
from compress.core.stage import Context, Stage, maker_of
from compress.core.target import Target

if TYPE_CHECKING:
    from torch import nn

    from compress.core.artifact import InputSpec

__all__ = ["FoldBatchnorm"]

_SAMPLES = 8


class FoldBatchnorm(Stage):
    """Same outputs, fewer operators: each normalisation that only follows one layer moves into that layer's weights.

    Weights that the network computes from parameters alone (weight norm, weight standardization) are computed here,
    once and for all: what prunes or rounds a stored weight would otherwise be undone by the computation.

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
                fix=f"fold first: stage.{name}.before={maker_of(precision)}",
            )

    def equal_on(self) -> int:
        return _SAMPLES

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
    """The folded copy, the number of normalisations folded, and a line for everything worth one."""
    from torch import fx

    from compress.graph.capture import capture, layer_name, static_batch_reason
    from compress.models.aten_modules import with_modules
    from compress.quantization.batchnorm import fold_graph, fold_module
    from compress.quantization.computed_weights import computed_layers, fold_parameters

    graph, as_graph = capture(module, input), isinstance(module, fx.GraphModule)
    stored = [
        f"the weight of {layer_name(node)} is computed from parameters: stored as it is now"
        for node in computed_layers(graph)
    ]
    if as_graph:
        graph = copy.deepcopy(graph)
        fold_parameters(graph)
        count, kept = fold_graph(graph)
        return graph, count, [*stored, *kept]
    if not stored or static_batch_reason(graph) is not None:  # a graph of batches of one would take no others
        return fold_module(module, graph)
    fold_parameters(graph)
    module = with_modules(graph)
    module, count, kept = fold_module(module, capture(module, input))
    return module, count, [*stored, *kept]
