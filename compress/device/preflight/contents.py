"""Contents of a `.tflite` file, and what the Edge TPU compiler would map of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.artifact import Port
from compress.core.errors import one_line
from compress.formats.edgetpu.table import NEWEST_RUNTIME

if TYPE_CHECKING:
    from compress.formats.edgetpu.preflight import Preflight
    from compress.formats.tflite.network import Network

__all__ = ["Contents", "examine"]

_COMPILED = "edgetpu-custom-op"
_SHOWN = 12  # operators that are told one by one; the number of all is given


@dataclass(frozen=True)
class Contents:
    """Contents of a file, as far as they can be told.

    Attributes:
        operators: number of each kind, most first.
        in_float: operators with a float result.
        compiled: parts of it that are compiled for an Edge TPU already.
        prediction: what the compiler maps; None for a file that went through it.
    """

    path: Path
    size_bytes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: dict[str, int]
    in_float: int
    compiled: int
    prediction: Preflight | None

    def lines(self) -> list[str]:
        """Lines for a reader; names in the file are made harmless."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.operators.items())
        total = sum(self.operators.values())
        floats = f", {self.in_float} of them in float" if self.in_float else ""
        text = [f"{self.path}  {self.size_bytes} bytes"]
        text += [f"  input   {_described(port)}" for port in self.inputs]
        text += [f"  output  {_described(port)}" for port in self.outputs]
        text += [f"  {total} operators{floats}: {kinds}", f"  Edge TPU: {self._edge_tpu()}"]
        text += [f"    {entry}" for entry in self._causes()[:_SHOWN]]
        hidden = len(self._causes()) - _SHOWN
        return [one_line(line) for line in (*text, *([f"    and {hidden} more"] if hidden > 0 else []))]

    def _edge_tpu(self) -> str:
        if self.prediction is None:
            parts = f"{self.compiled} part{'' if self.compiled == 1 else 's'}"
            unmapped = sum(self.operators.values()) - self.compiled
            return f"compiled for it already, {parts}; {unmapped} operators are left to the CPU"
        return self.prediction.summary()

    def _causes(self) -> list[str]:
        """Operators that stay on the CPU for their own sake."""
        entries = self.prediction.unmapped if self.prediction else ()
        return [str(entry) for entry in entries if entry.fix is not None]


def examine(path: Path, runtime: int = NEWEST_RUNTIME) -> Contents:
    """Read a file and predict.

    Args:
        runtime: oldest Edge TPU runtime it is to run on.

    Raises:
        ModelError: it is missing, damaged or not TFLite.
        MissingExtra: `ai-edge-litert` is not installed.
    """
    from compress.formats.edgetpu.preflight import preflight
    from compress.formats.tflite.network import read_network

    network = read_network(path)
    kinds = Counter(operator.kind for operator in network.operators)
    compiled = kinds[_COMPILED]
    return Contents(
        path=path,
        size_bytes=path.stat().st_size,
        inputs=tuple(tensor.port for tensor in network.inputs),
        outputs=tuple(tensor.port for tensor in network.outputs),
        operators=dict(kinds.most_common()),
        in_float=_in_float(network),
        compiled=compiled,
        prediction=None if compiled else preflight(network, runtime=runtime),
    )


def _in_float(network: Network) -> int:
    return sum(any(tensor.is_float for tensor in operator.outputs) for operator in network.operators)


def _described(port: Port) -> str:
    grid = "" if port.scale is None else f", real = {port.scale:.6g} (stored - {port.zero_point})"
    return f"{port.name!r} {port.dtype} {list(port.shape)}{grid}"
