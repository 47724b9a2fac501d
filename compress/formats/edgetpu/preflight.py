"""Prediction of what the Edge TPU compiler does with a file, from the published table: no compiler, no device.

The compiler maps one contiguous part ("More than one subgraph is not supported"). What it cannot map in front of that
part (a CAST, a QUANTIZE of floats) stays on the host's CPU and costs nothing else; behind the first operator that it
maps, one that it cannot map takes everything that depends on it along.
Parameters are cached in what the 8 MiB on the chip leave; what does not fit is streamed from the host every time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from compress.core.errors import ModelError
from compress.formats.edgetpu.rules import RULES
from compress.formats.edgetpu.table import NEWEST_RUNTIME, Entry, load_table
from compress.formats.tflite.network import Network, Operator, Tensor
from compress.support.quiet import first_line

__all__ = ["ON_CHIP_BYTES", "Preflight", "Unmapped", "preflight"]

_MIB = 1 << 20
ON_CHIP_BYTES = (int(6.2 * _MIB), int(7.7 * _MIB))
"""Room for parameters, least and most seen in compiler logs: the rest of the 8 MiB is for program and activations."""

_INTEGERS = frozenset({"int8", "uint8"})
_INNERMOST = 3


@dataclass(frozen=True)
class Unmapped:
    """An operator that stays on the CPU.

    Attributes:
        operator: `operator 12 LEAKY_RELU`.
        reason: in words; for one that is only behind another, which that is.
        fix: what to use instead; None where it would be mapped but for another.
        in_front: nothing that is mapped comes before it, so it ends nothing.
    """

    operator: str
    kind: str
    reason: str
    fix: str | None
    in_front: bool = False

    def __str__(self) -> str:
        return f"{self.operator}: {self.reason}" + (f"; use {self.fix}" if self.fix else "")


@dataclass(frozen=True)
class Preflight:
    """The prediction.

    Attributes:
        operators: of the file.
        mapped: of them on the Edge TPU.
        unmapped: the others, in execution order.
        parameter_bytes: constants of the mapped operators.
        spill_bytes: streamed from the host in every inference, least and most, as the room on the chip varies.
    """

    operators: int
    mapped: int
    unmapped: tuple[Unmapped, ...]
    parameter_bytes: int
    spill_bytes: tuple[int, int]

    @property
    def share(self) -> float:
        """Mapped operators over all."""
        return self.mapped / self.operators if self.operators else 0.0

    @property
    def break_at(self) -> Unmapped | None:
        """The first operator that is not mapped for its own sake and so ends the part on the Edge TPU."""
        causes = (entry for entry in self.unmapped if entry.fix is not None)
        return next((entry for entry in causes if not (entry.in_front and self.mapped)), None)

    @property
    def in_front(self) -> tuple[Unmapped, ...]:
        """Those that the CPU computes before the Edge TPU begins."""
        return tuple(entry for entry in self.unmapped if entry.in_front) if self.mapped else ()

    def summary(self) -> str:
        """One line for the report."""
        size = f"{self.parameter_bytes / _MIB:.2f} MiB of parameters"
        low, high = (part / _MIB for part in self.spill_bytes)
        memory = "fit on the chip" if high == 0 else f"{low:.1f} to {high:.1f} MiB are streamed in every inference"
        if 0 == low < high:
            memory = f"may not all fit: up to {high:.1f} MiB are streamed in every inference"
        front = f"; on the CPU in front: {', '.join(entry.kind for entry in self.in_front)}" if self.in_front else ""
        broken = f"; breaks at {self.break_at}" if self.break_at else ""
        return f"predicted: {self.mapped} of {self.operators} operators mapped{front}{broken}; {size}, {memory}"


def preflight(network: Network, *, runtime: int = NEWEST_RUNTIME) -> Preflight:
    """Predict the mapping of a file that is not compiled yet.

    Args:
        runtime: Edge TPU runtime to compile for (`-m`).

    Raises:
        ModelError: an operator has not the inputs that its kind takes.
    """
    left: dict[int, Unmapped] = {}  # what comes out of the CPU after the Edge TPU, by tensor
    mapped: set[int] = set()
    unmapped, stored = [], {}
    for operator in network.operators:
        entry = _own_reason(operator, runtime) or _behind(operator, left)
        outputs = {tensor.index for tensor in operator.outputs}
        if entry is None:
            mapped |= outputs
            stored.update({tensor.index: tensor for tensor in operator.inputs if tensor.constant is not None})
            continue
        in_front = not any(tensor.index in mapped or tensor.index in left for tensor in operator.inputs)
        unmapped.append(replace(entry, in_front=in_front))
        if not in_front:
            left.update(dict.fromkeys(outputs, entry))
    size = _bytes(stored.values())
    low, high = ON_CHIP_BYTES
    return Preflight(
        operators=len(network.operators),
        mapped=len(network.operators) - len(unmapped),
        unmapped=tuple(unmapped),
        parameter_bytes=size,
        spill_bytes=(max(0, size - high), max(0, size - low)),
    )


def _own_reason(operator: Operator, runtime: int) -> Unmapped | None:
    """Return why the operator itself is not mapped."""
    table = load_table()
    reason = _unsupported(operator, table.operators.get(operator.kind), runtime) or _bad_tensor(operator)
    if reason is None:
        return None
    return Unmapped(operator.label, operator.kind, reason, table.instead.get(operator.kind, "another layer"))


def _unsupported(operator: Operator, entry: Entry | None, runtime: int) -> str | None:
    if entry is None:
        return "not supported by the Edge TPU"
    if runtime < entry.since:
        return f"needs Edge TPU runtime {entry.since}, compiled for {runtime}"
    reasons = (RULES[use.rule](operator) for use in entry.rules if use.since <= runtime <= use.until)
    try:
        return next((reason for reason in reasons if reason), None)
    except (IndexError, ValueError) as error:  # a file holds any number of inputs and sizes
        raise ModelError(
            f"{operator.label} has not the inputs that its kind takes ({first_line(error)})", fix="convert it again"
        ) from error


def _bad_tensor(operator: Operator) -> str | None:
    """Return how it breaks https://coral.ai/docs/edgetpu/models-intro/#model-requirements; None if it does not."""
    computed = [*operator.activations, *operator.outputs]
    for tensor in computed:
        if min(tensor.shape, default=1) < 0:
            return f"{tensor.label} has an open size"
        if tensor.is_float:
            return f"{tensor.label} is not quantized"
        if any(size > 1 for size in tensor.shape[:-_INNERMOST]):
            return f"{tensor.label} has more than {_INNERMOST} dimensions above 1"
    if not any(tensor.dtype in _INTEGERS for tensor in computed):
        return f"it works on {computed[-1].dtype} and not on 8-bit integers"
    return None


def _behind(operator: Operator, left: dict[int, Unmapped]) -> Unmapped | None:
    cause = next((left[tensor.index] for tensor in operator.inputs if tensor.index in left), None)
    if cause is None:
        return None
    root = cause.operator if cause.fix is not None else cause.reason.removeprefix("after ").partition(":")[0]
    return Unmapped(operator.label, operator.kind, f"after {root}: more than one subgraph is not supported", None)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(
        0 if tensor.constant is None else math.prod(tensor.shape) * tensor.constant.itemsize for tensor in tensors
    )
