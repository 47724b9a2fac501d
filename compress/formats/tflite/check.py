"""The full-integer checker: whether a written file is one that an integer-only device takes, and if not, where not.

It reads the file and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compress.formats.tflite.network import Network, Operator, Tensor
from compress.formats.tflite.versions import is_older, needed_version, runtime_of

__all__ = ["Requirements", "Violation", "check_network"]

_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})


@dataclass(frozen=True)
class Requirements:
    """Requirements of a target on a file.

    Attributes:
        full_integer: no float tensor inside.
        float_io: float input and output are allowed, with one QUANTIZE and one DEQUANTIZE next to them.
        versions: newest version of each operator that the target's runtime has; kinds not listed are not limited.
        runtime: version of TensorFlow Lite's runtime on the target, where it is known.
        batch_one: the leading size of the input must be 1.
    """

    full_integer: bool
    float_io: bool = False
    versions: Mapping[str, int] | None = None
    runtime: str | None = None
    batch_one: bool = True


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong.

    Attributes:
        where: the operator, or the tensor where none makes it.
        what: which tensor, and what is the matter with it.
        cause: why it came to be, or what to change.
    """

    where: str
    what: str
    cause: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} ({self.cause})"


def check_network(network: Network, wanted: Requirements) -> list[Violation]:
    """Everything that keeps `network` from meeting `wanted`, in execution order; empty if nothing does."""
    violations = [*_shapes(network, wanted)]
    if wanted.full_integer:
        violations += _floats(network, wanted)
    violations += _versions(network, wanted)
    violations += _understated(network)
    violations += _too_new(network, wanted)
    return violations


def _shapes(network: Network, requirements: Requirements) -> list[Violation]:
    violations = [
        Violation(f"tensor {tensor.index}", f"{tensor.label} has an open size", "export with fixed sizes and batch 1")
        for tensor in network.tensors
        if min(tensor.shape, default=1) < 0
    ]
    if requirements.batch_one:
        violations += [
            Violation(f"input {tensor.index}", f"{tensor.label} has batch {tensor.shape[0]}", "export with batch 1")
            for tensor in network.inputs
            if tensor.shape and tensor.shape[0] > 1
        ]
    if network.subgraphs > 1:
        violations.append(
            Violation("file", f"{network.subgraphs} subgraphs", "control flow cannot be mapped; unroll it")
        )
    return violations


def _floats(network: Network, requirements: Requirements) -> list[Violation]:
    """One violation for each operator that computes in float."""
    outside = {tensor.index for tensor in (*network.inputs, *network.outputs)} if requirements.float_io else set()
    violations = []
    for operator in network.operators:
        floats = [tensor for tensor in (*operator.inputs, *operator.outputs) if tensor.is_float]
        inside = [tensor for tensor in floats if tensor.index not in outside]
        if inside or (floats and operator.kind not in _CONVERSIONS):
            violations.append(Violation(operator.label, floats[-1].label, _why_float(operator, network)))
    return violations


def _why_float(operator: Operator, network: Network) -> str:
    if not any(tensor.quantization for tensor in network.tensors):
        return "the model is not quantized; run ptq_static or qat before"
    if operator.kind == "DEQUANTIZE":
        return "what reads it has no integer kernel, or its output has no scale"
    if operator.kind == "QUANTIZE":
        return "what comes before computes in float"
    unscaled = [tensor for tensor in operator.outputs if tensor.quantization is None]
    return "its output has no scale: the placement left it in float" if unscaled else "LiteRT has no integer kernel"


def _versions(network: Network, requirements: Requirements) -> list[Violation]:
    limits = requirements.versions or {}
    return [
        Violation(
            operator.label,
            f"version {operator.version}, the target's runtime has up to {limits[operator.kind]}",
            _why_newer(operator),
        )
        for operator in network.operators
        if operator.version > limits.get(operator.kind, operator.version)
    ]


def _understated(network: Network) -> list[Violation]:
    """Operators that do more than the version they state has; a runtime that has just that would do something else."""
    needed = [(operator, needed_version(operator)) for operator in network.operators]
    return [
        Violation(operator.label, f"version {operator.version} is stated", f"what it does needs version {version}")
        for operator, version in needed
        if version is not None and operator.version < version
    ]


def _too_new(network: Network, requirements: Requirements) -> list[Violation]:
    if requirements.runtime is None:
        return []
    return [
        Violation(
            operator.label, f"needs a runtime from {runtime_of(operator)} on", f"the target has {requirements.runtime}"
        )
        for operator in network.operators
        if is_older(requirements.runtime, runtime_of(operator))
    ]


def _why_newer(operator: Operator) -> str:
    if (
        operator.kind == "CONV_2D"
        and len(operator.inputs) > 1
        and operator.inputs[0].shape[-1:] != (operator.inputs[1].shape[-1:])
    ):
        return "a grouped convolution; use a full or a depthwise one"
    return f"made by {_first(operator).label}"


def _first(operator: Operator) -> Tensor:
    return operator.outputs[0] if operator.outputs else operator.inputs[0]
