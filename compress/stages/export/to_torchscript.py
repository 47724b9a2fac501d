"""Export to TorchScript: traced on one image, frozen, checked."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal, StageError
from compress.core.stage import Context, ExportStage
from compress.support.files import atomic_path

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compress.core.target import Target

__all__ = ["ToTorchscript"]

METADATA_FILE = "edge_compress.json"
"""Extra file inside the archive: `torch.jit.load(path, _extra_files={"edge_compress.json": ""})`."""


class ToTorchscript(ExportStage):
    """Write a frozen TorchScript file, float32 in and out. Any batch size is accepted where the model allows it.

    Attributes:
        parity_samples: calibration images on which the file must reproduce its source before it is handed over.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    produces: ClassVar[Format] = Format.TORCHSCRIPT
    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

    parity_samples: Annotated[int, Field(ge=1)] = 16

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        target.require_format(Format.TORCHSCRIPT, stage=name)
        target.require_precision(precision, stage=name)
        if precision is Precision.INT8:
            raise Refusal(
                f"stage {name!r}: TorchScript runs quantize and dequantize as separate float operators, "
                "slower than the float32 model",
                fix=f"~stage.{name}, and export INT8 with to_onnx",
            )

    def equal_on(self) -> int:
        return self.parity_samples

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        import torch

        from compress.formats.onnx.metadata import metadata
        from compress.support.quiet import quiet

        script = _trace(artifact.module, artifact.input)
        path = context.folder / f"{context.name}.ts.pt"
        exported = artifact.after(
            context.name, path, format=Format.TORCHSCRIPT, dynamic_batch=_takes_any_batch(script, artifact)
        )
        origin = json.dumps(metadata(exported.input, exported.precision, exported.history))
        content = io.BytesIO()  # torch's own file writer aborts the process when the disk is full
        with quiet():
            torch.jit.save(script, content, _extra_files={METADATA_FILE: origin})
        with atomic_path(path) as temporary:
            temporary.write_bytes(content.getvalue())
        return exported


def _trace(module: nn.Module, spec: InputSpec) -> torch.jit.ScriptModule:
    import torch

    from compress.support.quiet import first_line, quiet

    try:
        with quiet(), torch.no_grad():
            traced = torch.jit.trace(module, torch.zeros(1, *spec.shape), check_trace=False)
            frozen: torch.jit.ScriptModule = torch.jit.freeze(traced.eval())
            return frozen
    except Exception as error:  # whatever the user's forward raises, and the tracer's own errors
        raise StageError(
            f"the model cannot be traced to TorchScript: {first_line(error)}",
            fix="make forward take one tensor and return one tensor, or export with to_onnx",
        ) from error


def _takes_any_batch(script: torch.jit.ScriptModule, artifact: Artifact) -> bool:
    """Tell whether a trace of one image computes three, too, and the same: some models record their batch size."""
    import torch

    images = torch.linspace(-1, 1, steps=3 * torch.Size(artifact.input.shape).numel()).reshape(3, *artifact.input.shape)
    with torch.inference_mode():
        alone = torch.cat([script(image) for image in images.split(1)])
        try:
            together = script(images)
        except RuntimeError:
            return False
    return together.shape == alone.shape and torch.allclose(
        together, alone, rtol=1e-2, atol=1e-2 * float(alone.abs().max())
    )
