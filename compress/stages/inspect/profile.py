"""Time every layer of the newest file: changes nothing, leaves `profile.json` and `trace.json` in the run folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from compress.core.artifact import Artifact, Format
from compress.core.stage import Context, Stage
from compress.support.files import copy_file, write_bytes

__all__ = ["Profile"]


class Profile(Stage):
    """Look, change nothing: the file is handed on as it came.

    Engines are profiled with `python -m compress.profile <run>`, as their run folder also holds the ONNX file that says
    what their layers compute.

    Attributes:
        threads: of the runtime.
        batch: samples a call; null takes the file's own, 1 where that is free.
        seconds: longest time spent on timing.
        limits: hold the layers against this machine, measured, or against the target's published peaks.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.ONNX, Format.TORCH})
    produces: ClassVar[Format | None] = None

    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    batch: Annotated[int, Field(ge=1)] | None = None
    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    limits: Literal["measured", "published"] = "measured"

    def surroundings(self) -> dict[str, str]:
        from compress.profile.machine import machine_name

        return {"machine": machine_name()}

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Profile and hand on; files of a stage called `profile` are `profile.json` and `trace.json`.

        Raises:
            ConfigError: the batch does not fit the file, or the target states no peaks.
            StageError: the runtime refuses the file.
        """
        from compress.profile.analyze import profile
        from compress.profile.layer import Settings, Source
        from compress.profile.readers import find_reader
        from compress.profile.trace import write_trace
        from compress.support.serialize import to_json

        settings = Settings(threads=self.threads, batch=self.batch, seconds=self.seconds)
        target = context.target if self.limits == "published" else None
        result, recording = profile(Source.of(artifact), find_reader(artifact.format), settings, target)
        prefix = "" if context.name == "profile" else f"{context.name}."
        files = context.folder / f"{prefix}profile.json", context.folder / f"{prefix}trace.json"
        write_bytes(files[0], to_json(result))
        write_trace(files[1], result, recording.spans)
        advice = f"{result.model.bottleneck}: {result.model.advice}"
        context.progress.log(f"{context.name}: {advice}")
        return self._handed_on(artifact, context, {"profile": advice}, files)

    def _handed_on(
        self, artifact: Artifact, context: Context, notes: dict[str, str], files: tuple[Path, ...]
    ) -> Artifact:
        """The same model; a file is copied into this stage's folder, where the store looks for it."""
        if artifact.format is Format.TORCH:
            return replace(artifact, notes=notes, attachments=files)
        path = context.folder / artifact.path.name
        copy_file(artifact.path, path)
        return replace(artifact, model=path, notes=notes, attachments=files)
