"""TensorRT engines: built here where TensorRT and a GPU are, else planned here and built on the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, field_validator

from compress.core.artifact import PLAN_SUFFIX, Artifact, Format, Precision
from compress.core.errors import Refusal, StageError
from compress.core.stage import Context, Stage
from compress.support.files import copy_file, sha256_file, write_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.core.target import Target
    from compress.formats.tensorrt.plan import EnginePlan
    from compress.formats.tensorrt.race import Candidate

__all__ = ["ToTensorRT"]

_MIB = 1 << 20
_LARGEST_WORKSPACE_MIB = 1024
_IMAGES = 16

Batch = Annotated[int, Field(ge=1)]


class ToTensorRT(Stage):
    """An engine for this machine's GPU, or the plan for the device's.

    Engines move neither between GPUs nor between TensorRT versions. Without TensorRT and a GPU the output is a plan
    (`<name>.plan.json`) that `build_engine.py` in the bundle carries out on the device; there is no engine then, and
    nothing is measured. For INT8 the scales are also written as TensorRT's calibration cache.

    Attributes:
        batch: smallest, usual and largest batch of the engine's profile.
        workspace_mib: scratch memory of the builder; None takes an eighth of the device's memory, at most 1024.
        dla_core: DLA that runs what it can.
        sparse: allow kernels for 2:4 sparse weights.
        race: for INT8, build FP16 too, and hand over the faster one that computes what the ONNX file does.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.ONNX})
    produces: ClassVar[Format] = Format.TENSORRT
    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

    batch: tuple[Batch, Batch, Batch] = (1, 1, 1)
    workspace_mib: Annotated[int, Field(ge=16)] | None = None
    dla_core: Annotated[int, Field(ge=0, le=1)] | None = None
    sparse: bool = False
    race: bool = True

    @field_validator("batch")
    @classmethod
    def _in_order(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if list(value) != sorted(value):
            raise ValueError(f"batch is smallest, usual, largest; {list(value)} is not in that order")
        return value

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse a device without TensorRT, without this arithmetic, or without a DLA."""
        target.require_format(Format.TENSORRT, stage=name)
        target.require_precision(precision, stage=name)
        if self.dla_core is not None and self.dla_core >= target.dla_cores:
            has = f"has {target.dla_cores} DLA core(s), counted from 0" if target.dla_cores else "has no DLA"
            raise Refusal(
                f"stage {name!r}: {target.title} {has} ({target.compute.source})",
                fix=f"stage.{name}.dla_core=null, or dla_cores in the profile {target.name}.yaml",
            )

    def missing_here(self) -> str | None:
        from compress.formats.tensorrt.runtime import unavailable

        return unavailable()

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Build, or plan.

        Raises:
            StageError: the batch does not fit the file, the device's parser does not read it, or the builder's own
                reason (node, operator, memory).
        """
        if self.batch != (1, 1, 1) and not artifact.dynamic_batch:
            raise StageError(
                f"batch={list(self.batch)}, but {artifact.path.name} takes batch 1 only",
                fix="export it with stage.<to_onnx>.dynamic_batch=true",
            )
        _require_read(artifact.path, context.target)
        plan = self._plan(artifact, context.target)
        engine = self._planned(artifact, plan, context) or self._built(artifact, plan, context)
        if artifact.precision is not Precision.INT8:
            return engine
        version = context.target.tensorrt_version
        if version is None:
            absent = "not written: the target's profile states no tensorrt_version"
            return replace(engine, notes={**engine.notes, "calibration cache": absent})
        return replace(engine, attachments=(self._calibration(artifact, version, context),))

    def _plan(self, artifact: Artifact, target: Target) -> EnginePlan:
        from compress.formats.tensorrt.plan import EnginePlan

        workspace = self.workspace_mib or min(_LARGEST_WORKSPACE_MIB, target.memory_bytes.value // 8 // _MIB)
        return EnginePlan(
            onnx=artifact.delivered_name,
            sha256=sha256_file(artifact.path),
            precision=artifact.precision,
            batch=self.batch,
            workspace_mib=workspace,
            dla_core=self.dla_core,
            sparse=self.sparse,
            expects=f"{target.title}: {target.compute.value}; {target.runtime.value}",
        )

    def _calibration(self, artifact: Artifact, version: str, context: Context) -> Path:
        """A file of scales for implicit INT8 in that TensorRT, which agrees with the Q/DQ file then."""
        import onnx

        from compress.formats.onnx.calibration_cache import calibration_cache
        from compress.formats.tensorrt.plan import CALIBRATION_SUFFIX

        text = calibration_cache(onnx.load(artifact.path), version)
        path = context.folder / f"{context.name}{CALIBRATION_SUFFIX}"
        write_bytes(path, text.encode())
        return path

    def _planned(self, artifact: Artifact, plan: EnginePlan, context: Context) -> Artifact | None:
        """The plan for the device, where no engine can be built here; else None."""
        from compress.support.serialize import to_json

        reason = self.missing_here()
        if reason is None:
            return None
        path = context.folder / f"{context.name}{PLAN_SUFFIX}"
        write_bytes(path, to_json(plan))
        note = f"{reason}: build_engine.py in the bundle builds {plan.onnx} on the device; expected {plan.expects}"
        context.progress.log(f"{context.name}: {reason}; the engine is built on the device")
        return artifact.after(context.name, path, format=Format.TENSORRT, notes={"engine": note})

    def _built(self, artifact: Artifact, plan: EnginePlan, context: Context) -> Artifact:
        from compress.formats.tensorrt.race import describe, fastest, race

        images = next(context.splits.calibration.batches(max(_IMAGES, plan.batch[1]))).images
        candidates = self._candidates(artifact, plan, context)
        results = race(candidates, images, _reference(artifact, images), min(plan.batch[1], len(images)))
        chosen = fastest(results)
        path = context.folder / f"{context.name}.engine"
        copy_file(chosen.candidate.engine, path)
        return artifact.after(
            context.name,
            path,
            format=Format.TENSORRT,
            precision=chosen.candidate.precision,
            dynamic_batch=plan.batch[0] != plan.batch[2],
            notes={"engine": describe(results, chosen)},
        )

    def _candidates(self, artifact: Artifact, plan: EnginePlan, context: Context) -> list[Candidate]:
        """An engine of the file itself, and for INT8 one of its float twin in FP16."""
        from compress.formats.parity import TOLERANCES
        from compress.formats.tensorrt.build import build_engine
        from compress.formats.tensorrt.race import Candidate

        files = {artifact.precision: artifact.path}
        if self.race and artifact.precision is Precision.INT8:
            files[Precision.FP16] = _write_twin(artifact.path, context.folder / f"{context.name}.float.onnx")
        candidates = []
        for precision, onnx in files.items():
            engine = context.folder / f"{context.name}.{precision}.engine"
            built = build_engine(replace(plan, precision=precision), onnx, engine)
            layers = ", ".join(f"{count} {kind}" for kind, count in sorted(built.layers.items()))
            context.progress.log(f"{context.name}: {precision} engine in {built.build_seconds:.0f} s: {layers}")
            candidates.append(Candidate(precision, engine, TOLERANCES[artifact.precision]))
        return candidates


def _require_read(path: Path, target: Target) -> None:
    """Refuse here what the device's parser would refuse there."""
    if target.onnx_parser is None:
        return
    from compress.formats.onnx.parsers.fit import require_read
    from compress.formats.onnx.parsers.table import load_parser

    require_read(path, load_parser(target.onnx_parser.value), target.title)


def _write_twin(source: Path, path: Path) -> Path:
    import onnx

    from compress.formats.onnx.float_twin import float_twin

    onnx.save(float_twin(onnx.load(source)), path)
    return path


def _reference(artifact: Artifact, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of the ONNX file as its specification says, every operator by itself."""
    import os

    from compress.formats.onnx.runtime import load

    return load(artifact, threads=os.cpu_count() or 1, fused=False)(images)
