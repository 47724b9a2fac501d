"""Export to TFLite: NHWC, batch 1, our scales, checked operator by operator and proven equal."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import MissingExtra, Refusal, StageError
from compress.core.stage import Context, ExportStage
from compress.support.files import atomic_path

if TYPE_CHECKING:
    from torch import fx, nn

    from compress.core.target import Target
    from compress.formats.parity import Tolerance
    from compress.formats.tflite.check import Requirements
    from compress.formats.tflite.write import Form

__all__ = ["ToTflite"]

_SHOWN = 8  # violations that fit on a screen; the number of all is given

_DYNAMIC_SQNR_DB = 15.0
"""Parity floor of dynamic range, noise of 3 % of the logits' energy, as for the `dynamic` stage."""


class ToTflite(ExportStage):
    """Write a `.tflite` file with input `input` (NHWC) and output `logits`.

    A quantized module (or an ONNX file with Q/DQ) becomes an INT8 file with the very same scales; a float one becomes a
    float file, whose weights can be stored in fewer bits.

    Attributes:
        io: element type of an INT8 file's input and output; null takes what the target asks for, else int8.
        weights: of a float model: `float32`; `float16`, half the size; `int8`, a quarter of it ("dynamic range").
        parity_samples: calibration images on which the file must reproduce its source before it is handed over.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH, Format.ONNX})
    produces: ClassVar[Format] = Format.TFLITE
    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

    io: Literal["int8", "uint8", "float32"] | None = None
    weights: Literal["float32", "float16", "int8"] = "float32"
    parity_samples: Annotated[int, Field(ge=1)] = 16

    def precision_from(self, precision: Precision) -> Precision:
        if precision is Precision.INT8 or self.weights == "int8":
            return Precision.INT8
        return Precision.FP32

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        target.require_format(Format.TFLITE, stage=name)
        facts = target.tflite
        if facts is not None and facts.full_integer and precision is not Precision.INT8:
            raise Refusal(
                f"stage {name!r}: {target.title} runs full-integer files only ({facts.source}), "
                f"but the model is {precision}",
                fix="precision=int8",
            )
        if precision is Precision.FP16:
            raise Refusal(
                f"stage {name!r}: LiteRT computes float models in float32; float16 is a way to store their weights",
                fix=f"precision=fp32 stage.{name}.weights=float16",
            )
        target.require_precision(self.precision_from(precision), stage=name)
        if precision is Precision.INT8 and self.weights != "float32":
            raise Refusal(
                f"stage {name!r}: weights={self.weights} is for float models, but the input is int8 already",
                fix=f"stage.{name}.weights=float32 or precision=fp32",
            )
        if facts is not None and facts.full_integer and self.io == "float32":
            raise Refusal(
                f"stage {name!r}: {target.title} takes no float input or output ({facts.source})",
                fix=f"stage.{name}.io={facts.io}",
            )
        if find_spec("litert_torch") is None:
            raise MissingExtra("litert-torch", extra="tflite", needed_for=f"stage {name!r} (on x86-64 or macOS)")

    def equal_on(self) -> int:
        """Weights in fewer bits are meant to differ: `run` compares those by a tolerance of their own."""
        return self.parity_samples if self.weights == "float32" else 0

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Convert, check and compare.

        Raises:
            MissingExtra: the converter is not installed.
            StageError: an operator has no form in LiteRT, or the file is not what the target needs; names where.
            ParityError: the file does not compute what its source does.
        """
        from compress.formats.parity import check_export
        from compress.formats.tflite.loadable import require_loadable
        from compress.formats.tflite.write import tflite_bytes
        from compress.graph.capture import capture

        module = _module(artifact)
        graph = capture(module, artifact.input, dynamic_batch=False)
        _refuse_recurrent(graph, context.target)
        path = context.folder / f"{context.name}.tflite"
        exported = artifact.after(
            context.name,
            path,
            format=Format.TFLITE,
            precision=self.precision_from(artifact.precision),
            dynamic_batch=False,
            notes=self._notes(),
        )
        content = tflite_bytes(module, artifact.input, self._form(context.target), _metadata(exported, context))
        require_loadable(content, graph)
        self._check(content, graph, artifact, context)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
            if self.weights != "float32":
                check_export(
                    artifact,
                    replace(exported, model=temporary),
                    context.splits.calibration,
                    self.parity_samples,
                    tolerance=self._tolerance(),
                )
        return exported

    def _form(self, target: Target) -> Form:
        from compress.formats.tflite.write import Form

        return Form(self._io(target), self.weights, target.tflite.lacks if target.tflite else ())

    def _io(self, target: Target) -> Literal["int8", "uint8", "float32"]:
        return self.io or (target.tflite.io if target.tflite else "int8")

    def _tolerance(self) -> Tolerance:
        from compress.formats.parity import TOLERANCES, Tolerance

        return Tolerance(sqnr_db=_DYNAMIC_SQNR_DB) if self.weights == "int8" else TOLERANCES[Precision.FP16]

    def _notes(self) -> dict[str, str]:
        words = {
            "float16": "stored as float16; arithmetic is float32",
            "int8": "stored as int8; activations are quantized by their range in every call",
        }
        return {"weights": words[self.weights]} if self.weights in words else {}

    def _check(self, content: bytes, graph: fx.GraphModule, artifact: Artifact, context: Context) -> None:
        """Refuse a file that a full-integer target cannot use; elsewhere, say what it has."""
        from compress.formats.tflite.check import check_network
        from compress.formats.tflite.network import parse_network
        from compress.formats.tflite.refusals import unmapped, without_integers

        if artifact.precision is not Precision.INT8:
            return
        network, target = parse_network(content), context.target
        lacking = {operator.kind for operator in network.operators} & set(target.tflite.lacks if target.tflite else ())
        if lacking:
            raise unmapped(graph, sorted(lacking)[0], target.title)
        violations = check_network(network, self._requirements(target))
        if not violations:
            return
        shown = "; ".join(str(violation) for violation in violations[:_SHOWN])
        more = f"; and {len(violations) - _SHOWN} more" if len(violations) > _SHOWN else ""
        if target.tflite is not None and target.tflite.full_integer:
            raise without_integers(graph, target.title) or StageError(
                f"{target.title} needs a full-integer file, and this one has {len(violations)} "
                f"violation{'s' if len(violations) > 1 else ''}: {shown}{more}",
                fix="replace the layers named there, or choose a target that falls back to float",
            )
        context.progress.log(f"{context.name}: not full-integer: {shown}{more}")

    def _requirements(self, target: Target) -> Requirements:
        from compress.formats.tflite.check import Requirements

        return Requirements(
            full_integer=True,
            float_io=self._io(target) == "float32",
            versions=target.tflite.versions if target.tflite else None,
            runtime=_runtime_version(target),
        )


def _refuse_recurrent(graph: fx.GraphModule, target: Target) -> None:
    """A recurrent layer is unrolled in float, step by step, which a full-integer target does not take."""
    from compress.formats.tflite.lower import recurrent_layers

    if target.tflite is None or not target.tflite.full_integer:
        return
    layers = recurrent_layers(graph)
    if layers:
        raise StageError(
            f"{target.title} needs a full-integer file, and LiteRT has no integer form for {', '.join(layers)}",
            fix="replace recurrent layers by convolutions, or choose a target that falls back to float",
        )


def _runtime_version(target: Target) -> str | None:
    """Version of the bundle's package, where it is TensorFlow Lite's own; LiteRT's counts anew and is newer."""
    deployment = target.deployment.get(Format.TFLITE)
    requirements = (package.partition(";")[0] for package in (deployment.packages if deployment else ()))
    pins = dict(requirement.strip().split("==") for requirement in requirements)
    return pins.get("tflite-runtime") or pins.get("tflite_runtime")


def _module(artifact: Artifact) -> nn.Module:
    if artifact.format is Format.TORCH:
        return artifact.module
    from compress.formats.onnx.importer import onnx_to_module

    return onnx_to_module(artifact.path)


def _metadata(exported: Artifact, context: Context) -> dict[str, object]:
    from compress.formats.onnx.metadata import metadata

    entries: dict[str, object] = dict(metadata(exported.input, exported.precision, exported.history))
    return {**entries, "layout": "NHWC", "labels": list(context.splits.classes)}
