"""A smaller, equal ONNX graph: passes of several libraries and our own, kept where measuring says that they help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import Refusal
from compress.core.stage import Context, Stage
from compress.optimize.pass_names import PORTABLE, PassName

if TYPE_CHECKING:
    from compress.core.target import Target

__all__ = ["OptimizeGraph"]

_ONNXRUNTIME = "onnxruntime"


class OptimizeGraph(Stage):
    """Rewrite an ONNX file so that it has fewer nodes and computes the same.

    Every pass works on what the ones before it left. It is kept only if the graph keeps its interface, opset and
    quantization, gives equal outputs on calibration images, has no more nodes (neither in the file nor in the graph
    that ONNX Runtime makes of it), is no larger and no slower, and gains something. What was tried and what it gave
    is logged and attached as `<stage>.json`. A graph that nothing helps is handed over as it came.

    Attributes:
        passes: to be tried, in this order.
        level: `extended` also tries ONNX Runtime's fused operators (FusedConv, QLinearAdd), which no other runtime
            has. A session makes them itself on load: the file starts faster and then runs as fast.
        ort_format: attach the graph in ONNX Runtime's own format as well (`<stage>.ort`, level extended), which loads
            without protobuf and without optimizing. On x86 it therefore misses the convolution layouts that a session
            would choose; Arm has none.
        samples: calibration images on which every pass must compute what the source does.
        seconds: longest time for one comparison of latency.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.ONNX})
    produces: ClassVar[Format] = Format.ONNX
    data_used: ClassVar[tuple[str, ...]] = ("calibration",)

    passes: tuple[PassName, ...] = PORTABLE
    level: Literal["basic", "extended"] = "basic"
    ort_format: bool = False
    samples: Annotated[int, Field(ge=1)] = 16
    seconds: Annotated[float, Field(gt=0)] = 2.0

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Besides what every ONNX stage refuses: files for ONNX Runtime where something else runs them."""
        target.require_format(Format.ONNX, stage=name)
        target.require_precision(precision, stage=name)
        if self.level == "extended":
            _require_onnxruntime(target, name, "operators that only ONNX Runtime has", f"stage.{name}.level=basic")
        if self.ort_format:
            _require_onnxruntime(target, name, "files in ONNX Runtime's own format", f"stage.{name}.ort_format=false")

    def surroundings(self) -> dict[str, str]:
        from compress.optimize.optimize import measured_on

        return {"host": measured_on()}

    def equal_on(self) -> int:
        return self.samples

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Optimize.

        Raises:
            StageError: not an ONNX file that ONNX Runtime runs, 2 GiB or larger, or above the target's opset.
            ParityError: the file as written does not compute what the source does.
        """
        from compress.optimize.optimize import Wanted, optimize
        from compress.optimize.passes import ONNXRUNTIME_ONLY

        names = [*self.passes, ONNXRUNTIME_ONLY] if self.level == "extended" else self.passes
        return optimize(artifact, context, Wanted(names, self.ort_format, self.samples, self.seconds))


def _require_onnxruntime(target: Target, stage: str, output: str, fix: str) -> None:
    """Refuse what only ONNX Runtime reads where the device runs ONNX files with something else."""
    deployment = target.deployment.get(Format.ONNX)
    if deployment is None or deployment.runtime != _ONNXRUNTIME:
        raise Refusal(
            f"stage {stage!r} would write {output}, but {target.title} runs {target.runtime.value} "
            f"({target.runtime.source})",
            fix=fix,
        )
