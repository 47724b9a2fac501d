"""The event file that ONNX Runtime's profiler writes, as calls and the nodes that ran in them.

Chrome's format (onnxruntime/core/common/profiler.cc): `model_run` for a call, `<node>_kernel_time` for a node, in
microseconds cut to integers.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from compress.core.errors import StageError
from compress.support.plain_json import parse_json

__all__ = ["Call", "Event", "median_us", "read_calls"]

_SUFFIX = "_kernel_time"
_MOST_VALUES = 100_000_000
"""The profiler keeps a million events at most (onnxruntime/core/common/profiler.h), with up to some dozen values."""


class Arguments(BaseModel):
    """Arguments that the profiler records of a node: tensors as `{"float": [1, 3, 32, 32]}`, sizes in bytes."""

    op_name: str = "?"
    activation_size: int = 0
    output_size: int = 0
    input_type_shape: list[dict[str, list[int]]] = []
    output_type_shape: list[dict[str, list[int]]] = []


class Event(BaseModel):
    """The part of an event that is read here."""

    cat: str
    name: str
    ts: int
    dur: int
    args: Arguments = Field(default_factory=Arguments)

    @property
    def node(self) -> str:
        """Name of the node that ran."""
        return self.name.removesuffix(_SUFFIX)

    @property
    def tensors(self) -> int:
        """Inputs and outputs that the profiler described."""
        return len(self.args.input_type_shape) + len(self.args.output_type_shape)


@dataclass(frozen=True)
class Call:
    """One `model_run` and the nodes that ran in it, in order."""

    start_us: int
    nodes: tuple[Event, ...]

    @property
    def total_us(self) -> int:
        return sum(node.dur for node in self.nodes)


def median_us(times_us: Sequence[int]) -> float:
    """Median of durations that were cut to whole microseconds: each stands for the interval from it to the next."""
    return statistics.median_grouped([value + 0.5 for value in times_us], interval=1)


def read_calls(path: Path) -> list[Call]:
    """The calls in an event file, oldest first, each with its nodes; nodes inside a node's own subgraph are left out.

    Raises:
        StageError: it is no such file.
    """
    try:
        events = TypeAdapter(list[Event]).validate_python(parse_json(path.read_bytes(), values=_MOST_VALUES))
    except (OSError, ValueError, ValidationError) as error:
        raise StageError(f"ONNX Runtime's profile cannot be read: {str(error).splitlines()[0]}") from error
    runs = sorted((event for event in events if event.name == "model_run"), key=lambda event: event.ts)
    nodes = sorted(
        (event for event in events if event.cat == "Node" and event.name.endswith(_SUFFIX)),
        key=lambda event: (event.ts, -event.dur),
    )
    calls, position = [], 0
    for run in runs:
        own = []
        while position < len(nodes) and nodes[position].ts <= run.ts + run.dur:
            own.append(nodes[position])
            position += 1
        calls.append(Call(run.ts, _outermost([node for node in own if node.ts >= run.ts])))
    return calls


def _outermost(nodes: Sequence[Event]) -> tuple[Event, ...]:
    """Nodes run one after the other, so one that lies inside another belongs to its `If` or `Loop`."""
    kept: list[Event] = []
    end = -1
    for node in nodes:
        if node.ts < end and node.ts + node.dur <= end:
            continue
        kept.append(node)
        end = node.ts + node.dur
    return tuple(kept)
