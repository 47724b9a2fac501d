"""What a device accepts: facts with their sources, read from `targets/<device>.yaml` and nothing else."""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from compress.errors import Refusal
from compress.types import Format, Precision

__all__ = ["Deployment", "Fact", "Int8Scheme", "Support", "Target"]

T = TypeVar("T")
_STRICT = ConfigDict(frozen=True, extra="forbid")


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
    """Whether the device runs a precision or loads a file format; if not, the user reads `reason` and `fix`."""

    model_config = _STRICT
    value: bool
    source: Annotated[str, Field(min_length=8)]
    status: Literal["published", "derived", "unverified"] = "published"
    reason: str | None = None
    fix: str | None = None


class Int8Scheme(BaseModel):
    """How the device's runtime wants INT8 expressed.

    Attributes:
        placement: name of the Q/DQ placement policy (`compress/quantization/policies/<name>.yaml`).
        reduce_range: keep weights in 7 bits, for CPUs whose 8-bit multiply-add saturates (x86 without VNNI).
    """

    model_config = _STRICT
    placement: str
    reduce_range: bool = False
    source: Annotated[str, Field(min_length=8)]


class Deployment(BaseModel):
    """What runs one file format on the device, and how to get it there.

    Attributes:
        runtime: as the device's agent calls it.
        packages: pinned for the device's Python and architecture (`numpy==2.2.6`); none where the system brings it.
    """

    model_config = _STRICT
    runtime: Literal["onnxruntime", "litert", "edgetpu", "tensorrt", "torchscript"]
    packages: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+]+$")], ...] = ()
    source: Annotated[str, Field(min_length=8)]


class Target(BaseModel):
    """A device profile (policy). The recipe (which stages to run) lives apart, in `conf/target/<device>.yaml`."""

    model_config = _STRICT
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    title: str
    compute: Fact[str]
    runtime: Fact[str]
    python: Fact[str]
    architecture: Literal["aarch64", "armv7l", "x86_64"]
    isa_flags: Fact[tuple[str, ...]]
    memory_bytes: Fact[int]
    bandwidth_bytes_per_s: Fact[float]
    peak_flops: dict[Precision, Fact[float]]
    precisions: dict[Precision, Support]
    formats: dict[Format, Support]
    onnx_opset_max: Fact[int] | None = None
    int8: Int8Scheme | None = None
    deployment: dict[Format, Deployment] = {}

    def require_precision(self, precision: Precision, *, stage: str) -> None:
        """Refuse `stage` with the device's own reason when it does not compute in `precision`."""
        self._require(self.precisions.get(precision), f"{precision} compute", stage)

    def require_format(self, format: Format, *, stage: str) -> None:
        """Refuse `stage` with the reason when the device's runtime does not load `format`."""
        self._require(self.formats.get(format), f"{format} files", stage)

    def _require(self, fact: Support | None, what: str, stage: str) -> None:
        if fact is None:
            raise Refusal(f"stage {stage!r}: {self.title} is not known to run {what}", fix=f"~stage.{stage}")
        if not fact.value:
            raise Refusal(
                f"stage {stage!r}: {self.title} cannot run {what}: {fact.reason or 'not supported'} ({fact.source})",
                fix=fact.fix or f"~stage.{stage}",
            )
