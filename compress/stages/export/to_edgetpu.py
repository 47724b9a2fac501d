"""Compile a TFLite file for the Edge TPU, or hand over everything to do that elsewhere, with a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from compress.core.artifact import SCRIPT_SUFFIX, Artifact, Format, Precision
from compress.core.errors import Refusal, StageError
from compress.core.stage import Context, Stage
from compress.formats.edgetpu.table import NEWEST_RUNTIME, OLDEST_RUNTIME
from compress.support.files import copy_file, sha256_file, write_bytes

if TYPE_CHECKING:
    from compress.core.target import Target
    from compress.formats.edgetpu.compiler import Compiler, Options
    from compress.formats.edgetpu.preflight import Preflight

__all__ = ["ToEdgetpu"]

_HELD_ON = 16
"""Calibration images on which a compiled file computes what it was compiled from, where an Edge TPU is plugged in."""

_SHOWN = 12  # operators named in the refusal; their number is given


class ToEdgetpu(Stage):
    """Run Google's compiler where it is installed (`EDGETPU_COMPILER`, the PATH, or `docker:<image>`).

    Without it the checked TFLite file is handed over with a script that compiles it, and the report has the preflight's
    prediction in place of the compiler's log.

    Attributes:
        min_mapped: share of operators that must run on the Edge TPU; 1.0 refuses a file that leaves any to the CPU.
        runtime: oldest Edge TPU runtime the file must run on.
        num_segments: parts, for a pipeline of that many Edge TPUs.
        timeout_seconds: limit of the compilation.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TFLITE})
    produces: ClassVar[Format] = Format.EDGETPU
    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

    min_mapped: Annotated[float, Field(ge=0, le=1)] = 0.0
    runtime: Annotated[int, Field(ge=OLDEST_RUNTIME, le=NEWEST_RUNTIME)] = NEWEST_RUNTIME
    num_segments: Annotated[int, Field(ge=1, le=16)] = 1
    timeout_seconds: Annotated[int, Field(ge=1)] = 180

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        target.require_format(Format.EDGETPU, stage=name)
        if precision is not Precision.INT8:
            raise Refusal(
                f"stage {name!r}: the Edge TPU compiler takes quantized models only, but the input is {precision}",
                fix="precision=int8",
            )

    def equal_on(self) -> int:
        return _HELD_ON

    def surroundings(self) -> dict[str, str]:
        """The compiler: with another one, or one at last, the stage is run again."""
        from compress.formats.edgetpu.compiler import find_compiler

        return {"compiler": str(find_compiler())}

    def missing_here(self) -> str | None:
        from compress.formats.edgetpu.compiler import PROGRAM, find_compiler

        return None if find_compiler() else f"no {PROGRAM} on the PATH"

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Predict, then compile if there is a compiler.

        Raises:
            StageError: too few operators are mapped (lists those that are not), or the compiler failed.
            ConfigError: `EDGETPU_COMPILER` names something that is not there.
        """
        from compress.formats.edgetpu.compiler import find_compiler
        from compress.formats.edgetpu.preflight import preflight
        from compress.formats.tflite.network import read_network

        model = context.folder / f"{context.name}.tflite"
        copy_file(artifact.path, model)
        prediction = preflight(read_network(model), runtime=self.runtime)
        context.progress.log(f"{context.name}: {prediction.summary()}")
        compiler = find_compiler()
        if compiler is None:
            return self._handed_over(artifact, model, prediction, context)
        return self._compiled(artifact, model, compiler, context)

    def _compiled(self, artifact: Artifact, model: Path, compiler: Compiler, context: Context) -> Artifact:
        from compress.formats.edgetpu.compiler import compile_model

        compiled = compile_model(compiler, model, self._options())
        share = compiled.log.share
        if share is not None and share < self.min_mapped:
            raise self._too_few(share, compiled.log.describe_unmapped())
        context.progress.log(f"{context.name}: {compiled.log.summary()}")
        first, *others = compiled.paths
        return artifact.after(
            context.name,
            first,
            format=Format.EDGETPU,
            notes={"edge tpu": compiled.log.summary()},
            attachments=(*others, model),
        )

    def _handed_over(self, artifact: Artifact, model: Path, prediction: Preflight, context: Context) -> Artifact:
        from compress.formats.edgetpu.script import compile_script

        if prediction.share < self.min_mapped:
            raise self._too_few(prediction.share, _listed(prediction))
        script = context.folder / f"{context.name}{SCRIPT_SUFFIX}"
        write_bytes(script, compile_script(model.name, sha256_file(model), self._options()).encode())
        context.progress.log(f"{context.name}: not compiled, no edgetpu_compiler here: run {script.name} where it is")
        note = f"not compiled (no edgetpu_compiler on the PATH): {script.name} does it. {prediction.summary()}"
        notes = {"edge tpu": note}
        return artifact.after(context.name, model, format=Format.EDGETPU, notes=notes, attachments=(script,))

    def _options(self) -> Options:
        from compress.formats.edgetpu.compiler import Options

        return Options(self.runtime, self.num_segments, self.timeout_seconds)

    def _too_few(self, share: float, left: str) -> StageError:
        return StageError(
            f"{share:.1%} of the operators are mapped to the Edge TPU, min_mapped={self.min_mapped:g} is wanted; "
            f"on the CPU: {left}",
            fix="replace those layers, or lower min_mapped",
        )


def _listed(prediction: Preflight) -> str:
    shown = "; ".join(str(entry) for entry in prediction.unmapped[:_SHOWN])
    left = len(prediction.unmapped) - _SHOWN
    return f"{shown}; and {left} more" if left > 0 else shown
