"""Export to ONNX for the device's own parser: its opset, one input, one output, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import Refusal
from compress.core.stage import Context, ExportStage
from compress.support.files import atomic_path

if TYPE_CHECKING:
    import onnx_ir as ir

    from compress.core.target import Target

__all__ = ["ToOnnx"]

_OLDEST_OPSET = 13
"""QuantizeLinear gained per-channel scales in 13; no target's parser stops earlier."""

_DEFAULT_OPSET = 17
"""Read by TensorRT 8.5 and every ONNX Runtime since 1.12 (2022); older and newer ones are chosen with `opset`."""

_NEWEST_OPSET = 20
"""What torch 2.14's exporter writes."""


class ToOnnx(ExportStage):
    """Write a self-contained ONNX file with input `input` and output `logits`, both float32.

    An ONNX artifact is written anew with the asked batch, opset and metadata.

    Attributes:
        opset: operator set of the file; null takes the newest that the target reads, at most 17.
        dynamic_batch: leave the batch size free; false fixes it at 1, which device compilers optimize better.
        parity_samples: calibration images on which the file must reproduce its source before it is handed over.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH, Format.ONNX})
    produces: ClassVar[Format] = Format.ONNX
    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

    opset: Annotated[int, Field(ge=_OLDEST_OPSET, le=_NEWEST_OPSET)] | None = None
    dynamic_batch: bool = False
    parity_samples: Annotated[int, Field(ge=1)] = 16

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        target.require_format(Format.ONNX, stage=name)
        target.require_precision(precision, stage=name)
        newest = target.onnx_opset_max
        if newest is None:
            return
        if newest.value < _OLDEST_OPSET:
            raise Refusal(
                f"stage {name!r}: {target.title} reads ONNX up to opset {newest.value} ({newest.source}), "
                f"the oldest this stage writes is {_OLDEST_OPSET}",
                fix=f"~stage.{name}",
            )
        if self.opset is not None and self.opset > newest.value:
            raise Refusal(
                f"stage {name!r}: opset {self.opset} is above {newest.value}, "
                f"the newest that {target.title} reads ({newest.source})",
                fix=f"stage.{name}.opset={newest.value}",
            )

    def equal_on(self) -> int:
        return self.parity_samples

    def foresee(self, source: Artifact, target: Target) -> None:
        """Refuse what has no form that the target's parser reads.

        Raises:
            StageError: names the operator, its node, what about it, and the fix.
        """
        if target.onnx_parser is not None or target.onnx_opset_max is not None:
            self._graph(source, target)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        from compress.formats.onnx.metadata import metadata
        from compress.formats.onnx.write import write_checked

        _require_precision(artifact, context)
        model, rewrites = self._graph(artifact, context.target)
        path = context.folder / f"{context.name}.onnx"
        exported = artifact.after(
            context.name,
            path,
            format=Format.ONNX,
            dynamic_batch=self.dynamic_batch,
            notes={"parser": f"written for {context.target.title}: {'; '.join(rewrites)}"} if rewrites else {},
        )
        with atomic_path(path) as temporary:
            write_checked(model, temporary, metadata(exported.input, exported.precision, exported.history))
        return exported

    def _graph(self, artifact: Artifact, target: Target) -> tuple[ir.Model, tuple[str, ...]]:
        """The graph as the target's parser reads it, and what was rewritten for that."""
        from compress.formats.onnx import assemble
        from compress.formats.onnx.opset import Ceiling

        newest = target.onnx_opset_max.value if target.onnx_opset_max else None
        opset = self.opset or min(newest or _DEFAULT_OPSET, _DEFAULT_OPSET)
        ceiling = Ceiling(newest, f"{target.title}'s parser stops at {newest}")
        if artifact.format is Format.TORCH:
            model = assemble.from_module(artifact.module, artifact.input, dynamic_batch=self.dynamic_batch)
        else:
            model = assemble.from_file(artifact.path, artifact.input, dynamic_batch=self.dynamic_batch)
        assemble.finish(model, opset, ceiling)
        parser = target.onnx_parser
        return model, assemble.fit_parser(model, parser.value, target.title) if parser else ()


def _require_precision(artifact: Artifact, context: Context) -> None:
    """Refuse a file that the user brings in a precision that the device does not compute in: known once it is read."""
    try:
        context.target.require_precision(artifact.precision, stage=context.name)
    except Refusal as refusal:
        raise Refusal(refusal.problem, fix="give the float32 model") from None
