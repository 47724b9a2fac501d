"""Facts about what a device accepts, with their sources, read from `targets/<device>.yaml` and nothing else."""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from compress.core.artifact import Format, Precision
from compress.core.errors import Refusal

__all__ = ["TARGET_NAME", "Deployment", "Fact", "Int8Scheme", "SparseWeights", "Support", "Target", "TfliteFacts"]

T = TypeVar("T")
_STRICT = ConfigDict(frozen=True, extra="forbid")

TARGET_NAME = r"[a-z][a-z0-9_]{0,63}"
"""A pattern: files and folders are named after targets."""

_PACKAGE = r'^[A-Za-z0-9._-]+==[A-Za-z0-9.+]+(; python_version (<|==|>=) "3\.\d+")?$'
"""A pinned requirement as pip reads it, with at most one bound on Python (PEP 508)."""


class Fact(BaseModel, Generic[T]):
    """A value and where it comes from.

    Attributes:
        status: `published` by the source, `derived` from published numbers, or `unverified` until read off a board.
    """

    model_config = _STRICT
    value: T
    source: Annotated[str, Field(min_length=8)]
    status: Literal["published", "derived", "unverified"] = "published"


class Support(BaseModel):
    """Support of the device for a precision or a file format; where it lacks, the user reads `reason` and `fix`."""

    model_config = _STRICT
    value: bool
    source: Annotated[str, Field(min_length=8)]
    status: Literal["published", "derived", "unverified"] = "published"
    reason: str | None = None
    fix: str | None = None


class Int8Scheme(BaseModel):
    """Scheme in which the device's runtime wants INT8 expressed.

    Attributes:
        placement: name of the Q/DQ placement policy (`compress/quantization/policies/<name>.yaml`).
        reduce_range: keep weights in 7 bits, for CPUs whose 8-bit multiply-add saturates (x86 without VNNI).
    """

    model_config = _STRICT
    placement: str
    reduce_range: bool = False
    source: Annotated[str, Field(min_length=8)]


class TfliteFacts(BaseModel):
    """Demands of the device on a `.tflite` file.

    Attributes:
        io: element type of input and output of an INT8 file.
        full_integer: nothing inside may be float.
        versions: newest version of each operator that its runtime or compiler has; kinds not listed are not limited.
        lacks: operators it has not, which are written as others (`HARD_SWISH` as ADD and MUL, `LEAKY_RELU` as PRELU)
            or, where that cannot be, refused.
    """

    model_config = _STRICT
    io: Literal["int8", "uint8", "float32"]
    full_integer: bool = False
    versions: dict[str, int] = {}
    lacks: tuple[Literal["HARD_SWISH", "LEAKY_RELU", "ELU", "GELU"], ...] = ()
    source: Annotated[str, Field(min_length=8)]


class SparseWeights(Support):
    """Support of the runtime for skipping zeros that lie in a regular pattern.

    Attributes:
        pattern: `2:4`, where it does.
    """

    pattern: Annotated[str, Field(pattern=r"^\d+:\d+$")] | None = None


class Deployment(BaseModel):
    """Runtime of one file format on the device, and how to get it there.

    Attributes:
        runtime: as the device's agent calls it.
        packages: pinned for the device's architecture, with the Pythons they are for where that matters
            (`numpy==1.21.6; python_version == "3.7"`); none where the system brings it.
        glibc: oldest version that their wheels run with.
    """

    model_config = _STRICT
    runtime: Literal["onnxruntime", "litert", "edgetpu", "tensorrt", "torchscript"]
    packages: tuple[Annotated[str, Field(pattern=_PACKAGE)], ...] = ()
    glibc: Annotated[str, Field(pattern=r"^2\.\d+$")] | None = None
    source: Annotated[str, Field(min_length=8)]


class Target(BaseModel):
    """A device profile (policy). The recipe (which stages to run) lives apart, in `conf/target/<device>.yaml`.

    What people read (`compute`, `runtime`) and what the program computes with are different fields.

    Attributes:
        cores: CPU cores that `peak_flops` counts; None where a GPU or another accelerator computes.
        dla_cores: deep learning accelerators beside its GPU.
        tensorrt_version: of its TensorRT; None where it has none, or the profile does not say.
        onnx_parser: the table of what its ONNX parser reads (`compress/formats/onnx/parsers/<name>.yaml`).
    """

    model_config = _STRICT
    name: Annotated[str, Field(pattern=f"^{TARGET_NAME}$")]
    title: str
    compute: Fact[str]
    cores: Annotated[int, Field(ge=1, le=1024)] | None = None
    dla_cores: Annotated[int, Field(ge=0, le=16)] = 0
    runtime: Fact[str]
    tensorrt_version: Annotated[str, Field(pattern=r"^\d{1,3}\.\d{1,3}\.\d{1,3}$")] | None = None
    python: Fact[str]
    architecture: Literal["aarch64", "armv7l", "x86_64"]
    isa_flags: Fact[tuple[str, ...]]
    memory_bytes: Fact[int]
    bandwidth_bytes_per_s: Fact[float]
    peak_flops: dict[Precision, Fact[float]]
    precisions: dict[Precision, Support]
    formats: dict[Format, Support]
    onnx_opset_max: Fact[int] | None = None
    onnx_parser: Fact[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]] | None = None
    int8: Int8Scheme | None = None
    tflite: TfliteFacts | None = None
    sparse_weights: SparseWeights | None = None
    deployment: dict[Format, Deployment] = {}

    def pinned(self, package: str) -> str | None:
        """The version of a package that is installed on the device; None where none is named."""
        pins = (pin.partition("==") for deployment in self.deployment.values() for pin in deployment.packages)
        return next((version for name, _, version in pins if name == package), None)

    def require_precision(self, precision: Precision, *, stage: str) -> None:
        """Refuse `stage` with the device's own reason when it does not compute in `precision`."""
        self._require(self.precisions.get(precision), f"{precision} compute", stage)

    def require_format(self, format: Format, *, stage: str) -> None:
        """Refuse `stage` with the reason when the device's runtime does not load `format`."""
        self._require(self.formats.get(format), f"{format} files", stage)

    def require_sparse_weights(self, pattern: str, *, stage: str) -> None:
        """Refuse `stage` with the reason when the device's runtime gains nothing from zeros in `pattern` (`2:4`)."""
        fact = self.sparse_weights
        self._require(fact, f"{pattern} sparse weights any faster than dense ones", stage)
        if fact is not None and fact.pattern != pattern:
            raise Refusal(
                f"stage {stage!r}: {self.title} skips zeros in the pattern {fact.pattern}, not {pattern} "
                f"({fact.source})",
                fix=f"stage.{stage}.n and stage.{stage}.m as in {fact.pattern}",
            )

    def _require(self, fact: Support | None, what: str, stage: str) -> None:
        if fact is None:
            raise Refusal(f"stage {stage!r}: {self.title} is not known to run {what}", fix=f"~stage.{stage}")
        if not fact.value:
            raise Refusal(
                f"stage {stage!r}: {self.title} cannot run {what}: {fact.reason or 'not supported'} ({fact.source})",
                fix=fact.fix or f"~stage.{stage}",
            )
