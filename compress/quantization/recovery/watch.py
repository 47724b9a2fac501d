"""Runs a graph node by node, so that chosen outputs can be looked at or changed on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from compress.core.errors import StageError

__all__ = ["ChannelStatistics", "Watched", "channel_statistics"]


class Watched(fx.Interpreter):
    """A graph whose listed nodes hand on what their function makes of their output."""

    def __init__(self, graph: fx.GraphModule, hooks: Mapping[fx.Node, Callable[[torch.Tensor], torch.Tensor]]) -> None:
        super().__init__(graph)
        self._hooks = hooks

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        return self._hooks[n](value) if n in self._hooks else value


@dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of a tensor that were seen, by channel.

    Attributes:
        lowest: smallest value `[channels]`.
        highest: largest value `[channels]`.
        power: mean square `[channels]`, float64.
    """

    lowest: torch.Tensor
    highest: torch.Tensor
    power: torch.Tensor

    @property
    def peak(self) -> torch.Tensor:
        """Largest absolute value `[channels]`."""
        return torch.maximum(self.lowest.abs(), self.highest.abs())


class _Running:
    """Statistics of one tensor over batches."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._lowest = self._highest = self._squares = torch.empty(0)
        self._count = 0

    def look(self, value: torch.Tensor) -> torch.Tensor:
        others = tuple(axis for axis in range(value.ndim) if axis != self._axis % value.ndim)
        lowest, highest = value.amin(others), value.amax(others)
        squares = value.square().sum(others, dtype=torch.float64)
        if self._count:
            lowest, highest = torch.minimum(lowest, self._lowest), torch.maximum(highest, self._highest)
            squares = squares + self._squares
        self._lowest, self._highest, self._squares = lowest, highest, squares
        self._count += value.numel() // value.shape[self._axis]
        return value

    def result(self) -> ChannelStatistics:
        if not self._count:
            raise StageError("the calibration split is empty", fix="raise data.calibration to at least 1 image")
        return ChannelStatistics(self._lowest, self._highest, self._squares / self._count)


def channel_statistics(
    graph: fx.GraphModule, axes: Mapping[fx.Node, int], batches: Iterable[torch.Tensor]
) -> dict[fx.Node, ChannelStatistics]:
    """Statistics of the output of each node of `axes` along the channel axis given with it, in one pass.

    Raises:
        StageError: no batch, or NaN or infinity met.
    """
    running = {node: _Running(axis) for node, axis in axes.items()}
    watched = Watched(graph, {node: meter.look for node, meter in running.items()})
    with torch.no_grad():
        for batch in batches:
            watched.run(batch)
    results = {node: meter.result() for node, meter in running.items()}
    for node, statistics in results.items():
        if not statistics.power.isfinite().all():
            raise StageError(
                f"the activation of {node.name!r} holds NaN or infinity", fix="check the checkpoint and the images"
            )
    return results
