"""Sensitivity scan: how much accuracy pruning each layer alone costs, as a table and CSV, which the report draws."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import Refusal, StageError
from compress.core.stage import Context, Stage, maker_of
from compress.core.target import Target
from compress.support.files import write_bytes

if TYPE_CHECKING:
    from torch import nn

    from compress.pruning.sensitivity import Scanned

__all__ = ["PruneScan"]

Ratio = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class PruneScan(Stage):
    """Look, change nothing: the model is handed on as it came, the report lies in the run folder.

    Changes are against the source: what an earlier stage lost is in each of them, and is said.

    Attributes:
        of: `weights` prunes the smallest weights of each layer, `channels` the least important channels of each group.
        ratios: shares to try, rising.
        samples: validation images that accuracy is measured on.
        exclude: names or patterns of layers to leave out.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    produces: ClassVar[Format] = Format.TORCH
    why_not_onnx: ClassVar[str | None] = "the weights of an ONNX file are frozen; scan the PyTorch model it came from"
    data_used: ClassVar[tuple[str, ...]] = ("validation",)

    of: Literal["weights", "channels"] = "weights"
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.3, 0.5, 0.7, 0.9)
    samples: Annotated[int, Field(ge=1)] = 128
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    @field_validator("ratios")
    @classmethod
    def _rising(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if list(ratios) != sorted(set(ratios)):
            raise ValueError("the ratios must rise")
        return ratios

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse an input that is no longer FP32: it is scanned as it would be pruned."""
        if precision is not Precision.FP32:
            raise Refusal(
                f"stage {name!r} scans fp32 weights, but its input is already {precision}",
                fix=f"stage.{name}.before={maker_of(precision)}",
            )

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Scan a copy of the module; write `report.csv`.

        Raises:
            StageError: nothing to prune, no validation images, or a pattern that matches nothing.
        """
        from compress.pruning.scan_report import scan_csv, scan_table
        from compress.pruning.sensitivity import scan
        from compress.pruning.validation import Judge

        judge = Judge(artifact, context, self.samples)
        module, parts = self._parts(artifact, context)
        whole = judge(module)
        source = judge.source(context) or whole
        curves = scan(context.progress.track(parts, context.name), self.ratios, lambda: judge(module), source)
        context.progress.log(
            f"{context.name}: changes of top-1 against the source's {source.top1:.2%} on {source.samples} images; what "
            f"came in is at {100 * (whole.top1 - source.top1):+.1f}"
        )
        for line in scan_table(curves):
            context.progress.log(f"{context.name}: {line}")
        write_bytes(context.folder / "report.csv", scan_csv(curves).encode())
        return artifact.after(context.name, artifact.module)

    def _parts(self, artifact: Artifact, context: Context) -> tuple[nn.Module, list[Scanned]]:
        if self.of == "weights":
            from compress.pruning.sensitivity import Weights
            from compress.pruning.unstructured import prunable_weights

            module = copy.deepcopy(artifact.module)
            return module, [Weights(weight) for weight in prunable_weights(module, self.exclude, context.name)]
        from compress.pruning.allocate import candidates
        from compress.pruning.importance import unit_importance
        from compress.pruning.network import analyse
        from compress.pruning.sensitivity import Channels

        network = analyse(artifact.module, artifact.input, self.exclude, context.name, context.seed)
        importance = unit_importance(network, "l2", (), context.name)
        prunable = candidates(network.groups, importance, multiple=1, max_removed=max(self.ratios))
        if not prunable:
            raise StageError(
                f"stage {context.name!r}: no channel of the model can be cut", fix=f"~stage.{context.name}"
            )
        return network.module, [Channels(candidate, network.module) for candidate in prunable]
