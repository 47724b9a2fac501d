"""Runs a graph node by node, so that chosen outputs can be looked at or changed on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import fx

from compress.errors import StageError

__all__ = ["Watched", "channel_peaks"]


class Watched(fx.Interpreter):
    """A graph whose listed nodes hand on what their function makes of their output."""

    def __init__(self, graph: fx.GraphModule, hooks: Mapping[fx.Node, Callable[[torch.Tensor], torch.Tensor]]) -> None:
        super().__init__(graph)
        self._hooks = hooks

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        return self._hooks[n](value) if n in self._hooks else value


def channel_peaks(
    graph: fx.GraphModule, axes: Mapping[fx.Node, int], batches: Iterable[torch.Tensor], *, absolute: bool
) -> dict[fx.Node, torch.Tensor]:
    """Largest output (or absolute output) `[channels]` of each node of `axes` along the channel axis given with it.

    Raises:
        StageError: no batch, or NaN or infinity met.
    """
    peaks: dict[fx.Node, torch.Tensor] = {}

    def hook(node: fx.Node, axis: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def look(value: torch.Tensor) -> torch.Tensor:
            peak = (value.abs() if absolute else value).movedim(axis, 0).flatten(1).amax(1)
            peaks[node] = torch.maximum(peaks[node], peak) if node in peaks else peak
            return value

        return look

    watched = Watched(graph, {node: hook(node, axis) for node, axis in axes.items()})
    with torch.no_grad():
        for batch in batches:
            watched.run(batch)
    _check(peaks, axes)
    return peaks


def _check(peaks: Mapping[fx.Node, torch.Tensor], axes: Mapping[fx.Node, int]) -> None:
    if axes and not peaks:
        raise StageError("the calibration split is empty", fix="raise data.calibration to at least 1 image")
    for node, peak in peaks.items():
        if not peak.isfinite().all():
            raise StageError(
                f"the activation of {node.name!r} holds NaN or infinity", fix="check the checkpoint and the images"
            )
