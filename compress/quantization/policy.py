"""Placement policies: where a runtime wants quantize/dequantize pairs so that its own fusions happen.

A policy is data, one YAML per runtime in `policies/`; `compress.quantization.placement` is the only code that reads the
rules. Free of torch, so that a configuration can be checked without loading it.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from importlib import metadata, resources
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compress.core.errors import ConfigError, nearest
from compress.graph.op_kind import OpKind
from compress.support.plain_yaml import parse_yaml

__all__ = [
    "FixedRange",
    "Guard",
    "IntegerForm",
    "NumberFormat",
    "OpRule",
    "Output",
    "Policy",
    "load_policy",
    "policy_names",
]

Output = Literal["own", "shared", "joined", "fixed", "none"]
"""Whose scale an operator's output has; see `OpRule`."""

_STRICT = ConfigDict(frozen=True, extra="forbid")
_VERSION = r"^\d+(\.\d+)*$"


class IntegerForm(str, Enum):
    """A layer without an integer kernel that `compress.quantization.integer_forms` writes with operators that have one.

    normalization  batch normalisation that cannot be folded: a depthwise convolution, or into the linear layer behind
    affine         a gain and an offset per channel, at the input also one for all; quotients by stored numbers
    power          small whole powers, and square roots written as powers
    groups         a grouped convolution, as full ones
    scaled_elu     SELU, CELU and ELU with factors of its own, with plain ELU
    elu            all of these with TANH and RSQRT
    mish, softplus (and log-sigmoid), gelu (`approximate="tanh"` only), abs
    """

    NORMALIZATION = "normalization"
    AFFINE = "affine"
    POWER = "power"
    GROUPS = "groups"
    SCALED_ELU = "scaled_elu"
    ELU = "elu"
    MISH = "mish"
    SOFTPLUS = "softplus"
    GELU = "gelu"
    ABS = "abs"

    def __str__(self) -> str:
        return self.value


class NumberFormat(BaseModel):
    """Integers a tensor is stored in.

    Attributes:
        dtype: storage type.
        symmetric: the real zero is the integer in the middle (0 for int8), so ranges are `[-max, max]`.
        narrow: leave out the most negative integer, so that int8 is `[-127, 127]`.
    """

    model_config = _STRICT
    dtype: Literal["int8", "uint8"]
    symmetric: bool
    narrow: bool = False

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        low, high = (0, 255) if self.dtype == "uint8" else (-128, 127)
        return low + self.narrow, high


class FixedRange(BaseModel):
    """Quantization parameters that the runtime's kernel has built in."""

    model_config = _STRICT
    scale: Annotated[float, Field(gt=0)]
    zero_point: int


class OpRule(BaseModel):
    """Rule by which one kind of operator takes part.

    Attributes:
        inputs: `all` activations it reads are quantized; `residual`: only the one that did not just leave a
            convolution; `none`: it takes what it gets.
        output: `own` scale; `shared` with its input, when that is quantized; `joined`: its own, which its inputs take
            over where calibration shows that this costs nothing; `fixed`; or `none`, left as it is.
        absorbs: activations between this operator and its output's Q/DQ, computed by the fused kernel or by the
            integer range itself.
        float_at_end: no Q/DQ on the output where it is the network's output.
        per_tensor: (weighted operators) one weight scale for the layer, because the kernel takes no more.
        fixed: for `output: fixed`.
    """

    model_config = _STRICT
    inputs: Literal["all", "residual", "none"] = "none"
    output: Output = "none"
    absorbs: tuple[OpKind, ...] = ()
    float_at_end: bool = False
    per_tensor: bool = False
    fixed: FixedRange | None = None

    @model_validator(mode="after")
    def _fixed_goes_with_fixed(self) -> OpRule:
        if (self.output == "fixed") != (self.fixed is not None):
            raise ValueError("'output: fixed' and 'fixed: {scale, zero_point}' go together")
        return self


class Guard(BaseModel):
    """An integer kernel of the runtime that is known to compute something else: its operator stays in float, and out of
    that kernel.

    Attributes:
        operator: the kind that the kernel computes.
        when: arguments of the ATen operator, by their names in its schema, and the values they have where the kernel is
            wrong; all of them. Empty: whatever they are.
        kernel: its name in the runtime.
        since, before: versions of the runtime (`1.31`) that have it; null is open.
        source: what shows it.
    """

    model_config = _STRICT
    operator: OpKind
    when: dict[str, bool | int]
    kernel: Annotated[str, Field(min_length=1)]
    since: Annotated[str, Field(pattern=_VERSION)] | None = None
    before: Annotated[str, Field(pattern=_VERSION)] | None = None
    source: Annotated[str, Field(min_length=8)]

    def applies_to(self, version: str | None) -> bool:
        """Tell whether a runtime of that version has the kernel; one whose version is not known may have it."""
        if version is None:
            return True
        since, before = self.since, self.before
        numbers = _numbers(version)
        return (since is None or numbers >= _numbers(since)) and (before is None or numbers < _numbers(before))

    @property
    def reason(self) -> str:
        """One clause for the user: which kernel is wrong where, and who says so."""
        where = " with " + ", ".join(f"{name}={value}" for name, value in self.when.items()) if self.when else ""
        bounds = [f"from {self.since}" if self.since else "", f"before {self.before}" if self.before else ""]
        versions = " ".join(filter(None, bounds)) or "all versions"
        return f"{self.kernel} is wrong{where} ({versions}; {self.source})"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


class Policy(BaseModel):
    """Everything the quantizer needs to know about a runtime.

    Attributes:
        runtime: for messages.
        source: where the rules were learnt.
        activation: integers of activations, always one scale per tensor.
        weight: integers of weights; zero point 0, so zeros of a pruned weight stay exactly zero.
        bias: `int32` with scale `input scale x weight scale`, or left in `float`.
        rules: by kind of operator; a kind that is not listed follows `unlisted`.
        unlisted: None leaves those operators in float.
        guards: operators that stay in float although their kind has a rule, or the runtime a kernel.
        expands: layers that are written with other operators before placement.
    """

    model_config = _STRICT
    runtime: str
    source: Annotated[str, Field(min_length=8)]
    activation: NumberFormat
    weight: NumberFormat
    bias: Literal["float", "int32"]
    rules: dict[OpKind, OpRule]
    unlisted: OpRule | None = None
    guards: tuple[Guard, ...] = ()
    expands: tuple[IntegerForm, ...] = ()

    @model_validator(mode="after")
    def _guards_need_float(self) -> Policy:
        if self.guards and self.unlisted is not None:
            raise ValueError("'guards' keep operators in float, which 'unlisted' rules out")
        return self

    @model_validator(mode="after")
    def _weights_are_symmetric(self) -> Policy:
        if not self.weight.symmetric or self.weight.dtype != "int8":
            raise ValueError("weights must be symmetric int8: an offset would turn pruned zeros into other numbers")
        return self

    def active_guards(self, pinned: str | None = None) -> tuple[Guard, ...]:
        """Those that apply to the version of the runtime on the device, or to the one here, where files are judged.

        Args:
            pinned: the device's; None where the target names none.
        """
        try:
            installed = metadata.version(self.runtime)
        except metadata.PackageNotFoundError:
            installed = None
        versions = {pinned or installed, installed or pinned}
        return tuple(guard for guard in self.guards if any(map(guard.applies_to, versions)))

    def rule(self, kind: OpKind) -> OpRule | None:
        """The rule for a kind of operator; None leaves it in float."""
        return self.rules.get(kind, self.unlisted)


def policy_names() -> tuple[str, ...]:
    """Names that `load_policy` knows."""
    names = (entry.name for entry in _folder().iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


@lru_cache
def load_policy(name: str) -> Policy:
    """Read and validate `policies/<name>.yaml`.

    Raises:
        ConfigError: there is no such policy, or its file is invalid.
    """
    if name not in policy_names():
        raise ConfigError(f"unknown placement policy {name!r}", fix=nearest(name, policy_names()))
    text = _folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    try:
        return Policy.model_validate(parse_yaml(text, f"placement policy {name!r}"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"placement policy {name!r}: {where}: {first['msg']}") from error


def _folder() -> resources.abc.Traversable:
    return resources.files("compress.quantization") / "policies"
