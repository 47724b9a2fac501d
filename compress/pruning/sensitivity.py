"""Accuracy against the share that is pruned, for one layer at a time; and how to spread a budget by it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from compress.graph.weights import Weight
from compress.pruning.allocate import Candidate
from compress.pruning.unstructured import prune_smallest
from compress.training.validate import Validation

__all__ = ["Channels", "Curve", "CurveDamage", "Point", "Scanned", "Weights", "scan", "shares_within"]

_STEP = 0.01  # share of a layer by which an allocation proceeds


@dataclass(frozen=True)
class Point:
    """The network with `share` of one layer pruned: accuracy and mean cross-entropy."""

    share: float
    top1: float
    loss: float


@dataclass(frozen=True)
class Curve:
    """Curve of how one layer takes pruning.

    Attributes:
        name: of the layer, or of the first layer of a group.
        size: weights, or channels, that the shares are of.
        points: by rising share; the first one, at share 0, is what the others are compared with: the whole network, or
            the source.
    """

    name: str
    size: int
    points: tuple[Point, ...]

    def damage(self, share: float) -> float:
        """Rise of the loss at any share, in straight lines between the points, never falling; at least 0."""
        highest, earlier = 0.0, (0.0, 0.0)
        for point in self.points[1:]:
            highest = max(highest, point.loss - self.points[0].loss)
            if share <= point.share:
                return _between(earlier, (point.share, highest), share)
            earlier, before = (point.share, highest), earlier
        return _between(before, earlier, share) if len(self.points) > 1 else 0.0


def _between(first: tuple[float, float], second: tuple[float, float], share: float) -> float:
    slope = (second[1] - first[1]) / (second[0] - first[0])
    return first[1] + slope * (share - first[0])


class Scanned(Protocol):
    """Something of which a share can be pruned for a while."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def pruned(self, share: float) -> AbstractContextManager[None]:
        """The network with that share gone inside the block, and whole again after it."""
        ...


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of one layer, smallest first."""

    weight: Weight

    @property
    def name(self) -> str:
        return self.weight.layer

    @property
    def size(self) -> int:
        return self.weight.tensor.numel()

    @contextmanager
    def pruned(self, share: float) -> Iterator[None]:
        with _restored([self.weight.tensor]):
            prune_smallest([self.weight.tensor], share)
            yield


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels or heads of one group, least important first; set to zero, which equals removing them."""

    candidate: Candidate
    module: nn.Module

    @property
    def name(self) -> str:
        return self.candidate.group.name

    @property
    def size(self) -> int:
        return self.candidate.group.units * self.candidate.group.width

    @contextmanager
    def pruned(self, share: float) -> Iterator[None]:
        group = self.candidate.group
        layers = [self.module.get_submodule(name) for name in group.silenced]
        with _restored([parameter for layer in layers for parameter in layer.parameters()]):
            group.silence(self.module, self.candidate.order[: round(share * group.units)])
            yield


def scan(
    parts: Iterable[Scanned], ratios: Sequence[float], judge: Callable[[], Validation], whole: Validation
) -> list[Curve]:
    """Prune each part alone by each ratio and judge the network.

    Args:
        ratios: shares in (0, 1), rising.
        judge: accuracy of the network as it is now.
        whole: accuracy to compare with, of the unpruned network or of the source.
    """
    return [_curve(part, ratios, judge, whole) for part in parts]


def _curve(part: Scanned, ratios: Sequence[float], judge: Callable[[], Validation], whole: Validation) -> Curve:
    points = [Point(0.0, whole.top1, whole.loss)]
    for ratio in ratios:
        with part.pruned(ratio):
            validation = judge()
        points.append(Point(ratio, validation.top1, validation.loss))
    return Curve(part.name, part.size, tuple(points))


class CurveDamage:
    """Damage as `allocate` asks for it: the rise of the loss that the scan predicts."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        self._curves = {curve.name: curve for curve in curves}

    def __call__(self, candidate: Candidate, before: int, after: int) -> float:
        curve, units = self._curves[candidate.group.name], candidate.group.units
        return curve.damage(after / units) - curve.damage(before / units)


def shares_within(curves: Sequence[Curve], amount: float) -> Mapping[str, float]:
    """Share of each layer to prune so that `amount` of all weights goes, at the least predicted loss.

    One step after the other is taken where the loss rises least for a weight; the last one only as far as needed. No
    layer goes beyond the largest share that was tried (where `amount` allows): past it the loss tends to explode.
    """
    most = max(amount, *(curve.points[-1].share for curve in curves))
    goal, pruned = amount * sum(curve.size for curve in curves), 0.0
    shares = {curve.name: 0.0 for curve in curves}
    queue = [(_price(curve, 0.0), number, curve) for number, curve in enumerate(curves)]
    heapq.heapify(queue)
    while queue and pruned < goal:
        _, number, curve = heapq.heappop(queue)
        step = min(_STEP, (goal - pruned) / curve.size, most - shares[curve.name])
        shares[curve.name] += step
        pruned += step * curve.size
        if shares[curve.name] < most - 1e-9:
            heapq.heappush(queue, (_price(curve, shares[curve.name]), number, curve))
    return shares


def _price(curve: Curve, share: float) -> float:
    """Rise of the loss over the next step, for one weight; equal prices go to the layer with more left."""
    rise = curve.damage(share + _STEP) - curve.damage(share)
    return (rise + 1e-9 * share) / (curve.size * _STEP)


@contextmanager
def _restored(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    saved = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in zip(tensors, saved, strict=True):
                tensor.copy_(before)
