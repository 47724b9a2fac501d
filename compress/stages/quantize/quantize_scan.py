"""Sensitivity scan: what INT8 in each layer alone costs at the output, as a table and CSV, which the report draws."""

from __future__ import annotations

import copy
from typing import Annotated, ClassVar

from pydantic import Field

from compress.core.artifact import Artifact, Format, Precision
from compress.core.stage import Context
from compress.quantization.options import StaticOptions, single_image_reason
from compress.support.files import write_bytes

__all__ = ["QuantizeScan"]


class QuantizeScan(StaticOptions):
    """Look, change nothing: the model is handed on as it came, the report lies in the run folder.

    Layers are quantized as `ptq_static` with the same options would, one at a time: weight, input and output. The
    network's output is compared with that of what came in, as noise of earlier stages would hide the differences; how
    far that is from the source is said.

    Attributes:
        batch_size: images at a time.
        batches: of calibration images that the network's output is compared on.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH})
    why_not_onnx: ClassVar[str | None] = "it hands on what it was given; scan the PyTorch model the file came from"
    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

    batch_size: Annotated[int, Field(ge=1)] = 32
    batches: Annotated[int, Field(ge=1)] = 4

    def precision_from(self, precision: Precision) -> Precision:
        return precision

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Calibrate a copy and quantize its layers in turn; write `report.csv`.

        Raises:
            StageError: no calibration images, or NaN or infinity in weights or activations (names the layer).
            ModelError: the module cannot be captured.
            ParityError: its graph does not compute what it does.
        """
        from compress.quantization.scan_report import scan_csv, scan_table
        from compress.quantization.sensitivity import measure_sensitivity
        from compress.quantization.static import CalibrationImages, Recovery, quantize

        graph = self.float_graph(artifact, context)
        batch_size = 1 if single_image_reason(graph, artifact) else self.batch_size
        images = CalibrationImages(context.splits.calibration, batch_size)
        calibrated = quantize(copy.deepcopy(graph), self.recipe(context), Recovery(), images, context.progress)
        shown = images.shown(context.progress, f"{context.name}: layers alone in INT8", self.batches)
        self._log_reference(artifact, context)
        rows = measure_sensitivity(calibrated.prepared, graph, shown, max_batches=self.batches)
        for line in scan_table(rows):
            context.progress.log(f"{context.name}: {line}")
        write_bytes(context.folder / "report.csv", scan_csv(rows).encode())
        return artifact.after(context.name, artifact.module)

    def _log_reference(self, artifact: Artifact, context: Context) -> None:
        from compress.formats.parity import distance
        from compress.quantization.scan_report import decibels

        if context.source is None:
            return
        images = self.batches * self.batch_size
        fidelity = distance(context.source, artifact, context.splits.calibration, images)
        context.progress.log(
            f"{context.name}: compared with what came in, whose SQNR against the source is "
            f"{decibels(fidelity.sqnr_db)} on {fidelity.samples} images"
        )
