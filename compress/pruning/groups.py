"""Groups of what can only be cut out of a network as a whole: channels that belong together, and attention heads.

A channel of one layer is tied to the channels of others: to the normalisation after it, to the inputs of all consumers,
through an addition to the channels of another layer. torch-pruning's dependency graph (Fang et al. 2023, "DepGraph")
finds these groups on the autograd graph of one forward pass. It treats operators that it does not know as if they left
the channels in place, which is wrong for a channel shuffle or a padded shortcut. So every group has to prove itself:
without some of its channels the network must compute what it computes with those channels set to zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from compress.pruning.attention import HeadAttention
from compress.pruning.shapes import Cut

if TYPE_CHECKING:
    from torch_pruning import DependencyGraph
    from torch_pruning.dependency import Group as Dependencies

__all__ = ["ChannelGroup", "Group", "HeadGroup", "channel_groups", "head_groups", "provable"]

_TOLERANCE = 1e-3  # of what removing the channels changes; a wrong mapping is off by about all of it
_NOISE = 1e-5  # of the largest output: float32 sums in another order
_MISFITS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError)
"""What a network raises whose sizes do not fit, and torch-pruning where it lost track of a concatenation."""


class Group(Protocol):
    """Units that can be removed independently of all other groups: a channel, several tied ones, or a head.

    Attributes:
        name: module path of the layer that makes the channels.
        units: number of units.
        width: channels in a unit.
        cuts: what removing one unit takes from each layer.
    """

    @property
    def name(self) -> str: ...

    @property
    def units(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def cuts(self) -> Mapping[str, Cut]: ...

    @property
    def silenced(self) -> Sequence[str]:
        """Layers that `silence` changes."""
        ...

    def remove(self, units: Sequence[int]) -> None:
        """Take these units out of the network, in place."""

    def silence(self, module: nn.Module, units: Sequence[int]) -> None:
        """Set what these units give to zero, in place, in the network or in a copy of it."""


@dataclass(eq=False)
class ChannelGroup:
    """Channels that the dependency graph ties together.

    Attributes:
        dependencies: every layer involved, with the group's channels in that layer's own numbering.
        members: channels of the first layer, by unit; several where a grouped convolution ties them.
        outputs: rows to set to zero in order to silence each channel: `(layer, row, channel)`.
    """

    name: str
    graph: DependencyGraph
    dependencies: Dependencies
    members: tuple[tuple[int, ...], ...]
    cuts: Mapping[str, Cut]
    outputs: Mapping[str, tuple[tuple[int, int], ...]] = field(repr=False)

    @property
    def units(self) -> int:
        return len(self.members)

    @property
    def width(self) -> int:
        return len(self.members[0])

    def remove(self, units: Sequence[int]) -> None:
        root = self.dependencies[0].dep
        channels = sorted(channel for unit in units for channel in self.members[unit])
        group = self.graph.get_pruning_group(root.target.module, root.handler, channels)
        for item in group.items:
            item.idxs.sort()  # a grouped convolution keeps the first of what is left
        group.prune(record_history=False)

    @property
    def silenced(self) -> Sequence[str]:
        return tuple(self.outputs)

    def silence(self, module: nn.Module, units: Sequence[int]) -> None:
        gone = {channel for unit in units for channel in self.members[unit]}
        for name, rows in self.outputs.items():
            _zero_rows(module.get_submodule(name), [row for row, channel in rows if channel in gone])


@dataclass(eq=False)
class HeadGroup:
    """The heads of one attention layer."""

    name: str
    attention: HeadAttention

    @property
    def units(self) -> int:
        return self.attention.heads

    @property
    def width(self) -> int:
        return self.attention.head_width

    @property
    def cuts(self) -> Mapping[str, Cut]:
        cut = Cut(outputs=self.width)
        projections = {f"{self.name}.{part}": cut for part in ("query", "key", "value")}
        return {
            **projections,
            f"{self.name}.out_proj": Cut(inputs=self.width),
            f"{self.name}.scores": Cut(inputs=2 * self.width),
        }

    @property
    def silenced(self) -> Sequence[str]:
        return (f"{self.name}.out_proj",)

    def remove(self, units: Sequence[int]) -> None:
        self.attention.remove(units)

    def silence(self, module: nn.Module, units: Sequence[int]) -> None:
        attention = module.get_submodule(self.name)
        assert isinstance(attention, HeadAttention)
        attention.silence(units)


def head_groups(module: nn.Module) -> list[HeadGroup]:
    """One group for each attention layer with heads to spare."""
    return [
        HeadGroup(name, part)
        for name, part in module.named_modules()
        if isinstance(part, HeadAttention) and part.heads > 1
    ]


def channel_groups(
    graph: DependencyGraph, module: nn.Module, keep: frozenset[str]
) -> tuple[list[ChannelGroup], list[str]]:
    """The groups of the graph that could be cut: not the network's outputs, no bare parameters, no layer of `keep`.

    Returns:
        The groups, and the names of layers whose groups torch-pruning fails to find.
    """
    names = {part: name for name, part in module.named_modules()}
    heads = [part for part in module.modules() if isinstance(part, HeadAttention)]
    closed = {projection for part in heads for projection in (part.query, part.key, part.value)}
    groups, failed, seen = [], [], set()
    for root in module.modules():  # in the order of the code, so that a group is named after its first layer
        if root in seen or root not in graph.module2node or not isinstance(root, nn.modules.conv._ConvNd | nn.Linear):
            continue
        try:
            dependencies = _whole_group(graph, root)
        except IndexError:  # torch-pruning 1.6, on the pieces of a split that were shuffled
            failed.append(names[root])
            continue
        makers = _makers(dependencies)
        seen |= makers
        group = _channel_group(graph, dependencies, names)
        if group is not None and not keep & group.outputs.keys() and not closed & makers:
            groups.append(group)
    return groups, failed


def _whole_group(graph: DependencyGraph, root: nn.Module) -> Dependencies:
    """Every channel of `root` with all that depends on it."""
    pruner = graph.get_pruner_of_module(root)
    return graph.get_pruning_group(root, pruner.prune_out_channels, list(range(pruner.get_out_channels(root))))


def _channel_group(
    graph: DependencyGraph, dependencies: Dependencies, names: Mapping[nn.Module, str]
) -> ChannelGroup | None:
    """None where the group holds what has no channels of its own to cut."""
    from torch_pruning import ops

    uncut = (ops.OPTYPE.PARAMETER, ops.OPTYPE.OUTPUT, ops.OPTYPE.MHA, ops.OPTYPE.LSTM)
    outputs: dict[str, tuple[tuple[int, int], ...]] = {}
    cuts: dict[str, Cut] = {}
    tied: list[list[int]] = []
    for position, (dependency, rows) in enumerate(dependencies.items):
        part, is_output = dependency.target.module, graph.is_out_channel_pruning_fn(dependency.handler)
        if dependency.target.type in uncut or (is_output and not dependency.target.outputs):
            return None  # the network's own outputs, and what has no rows of its own
        if not isinstance(part, nn.Module) or part not in names:
            continue
        name, roots = names[part], dependencies[position].root_idxs
        if None in roots or len(roots) != len(rows):
            return None
        if is_output:
            outputs[name] = tuple(zip(rows, roots, strict=True))
        if isinstance(part, nn.modules.conv._ConvNd | nn.Linear):
            cuts[name] = _merged(cuts.get(name), _cut(part, len(rows), is_output))
            tied += _tied(part, rows, roots, is_output)
    members = _united(len(dependencies[0].idxs), tied)
    each = _shared_out(cuts, len(members))
    if each is None or len(members) < 2 or len({len(member) for member in members}) > 1:
        return None
    return ChannelGroup(names[dependencies[0].dep.target.module], graph, dependencies, members, each, outputs)


def _shared_out(cuts: Mapping[str, Cut], units: int) -> dict[str, Cut] | None:
    """Return what one unit takes from each layer; None where units are of unequal size."""
    if any(size % units for cut in cuts.values() for size in (cut.inputs, cut.outputs, cut.groups)):
        return None
    return {name: Cut(cut.inputs // units, cut.outputs // units, cut.groups // units) for name, cut in cuts.items()}


def _makers(dependencies: Dependencies) -> set[nn.Module]:
    """Layers whose outputs the group cuts; a consumer's inputs are its own affair."""
    graph = dependencies._DG
    return {dep.target.module for dep, _ in dependencies.items if graph.is_out_channel_pruning_fn(dep.handler)}


def _cut(part: nn.Module, rows: int, is_output: bool) -> Cut:
    if _depthwise(part):
        return Cut(rows, rows, rows)
    return Cut(outputs=rows) if is_output else Cut(inputs=rows)


def _depthwise(part: nn.Module) -> bool:
    return isinstance(part, nn.modules.conv._ConvNd) and part.groups == part.out_channels == part.in_channels > 1


def _merged(before: Cut | None, now: Cut) -> Cut:
    if before is None or before == now:
        return now
    return Cut(max(before.inputs, now.inputs), max(before.outputs, now.outputs), max(before.groups, now.groups))


def _tied(part: nn.Module, rows: Sequence[int], roots: Sequence[int], is_output: bool) -> list[list[int]]:
    """Channels that must go together because a grouped convolution needs groups of equal size."""
    if not isinstance(part, nn.modules.conv._ConvNd) or part.groups == 1 or _depthwise(part):
        return []
    size = (part.out_channels if is_output else part.in_channels) // part.groups
    by_place: dict[int, list[int]] = {}
    for row, root in zip(rows, roots, strict=True):
        by_place.setdefault(row % size, []).append(root)
    return list(by_place.values())


def _united(channels: int, tied: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Channels 0, 1, ... merged wherever a set of `tied` holds several."""
    member = {channel: [channel] for channel in range(channels)}
    for together in tied:
        merged = sorted({channel for root in together for channel in member[root]})
        member.update(dict.fromkeys(merged, merged))
    return tuple(tuple(m) for m in {id(m): m for m in member.values()}.values())


@torch.no_grad()
def _zero_rows(part: nn.Module, rows: Sequence[int]) -> None:
    transposed = isinstance(part, nn.modules.conv._ConvTransposeNd)
    weight, bias = getattr(part, "weight", None), getattr(part, "bias", None)
    if isinstance(part, nn.PReLU) or not isinstance(weight, torch.Tensor):
        return
    if transposed:
        weight[:, rows] = 0
    else:
        weight[rows] = 0
    if isinstance(bias, torch.Tensor):
        bias[rows] = 0


# --- the proof --------------------------------------------------------------------------------------------------------


def provable(groups: Sequence[ChannelGroup], module: nn.Module, images: torch.Tensor, seed: int) -> list[ChannelGroup]:
    """The groups whose removal changes the network exactly as zeroing their channels does.

    All are tried at once first; where that fails, halves, down to the culprits. The network is put back each time.

    Args:
        module: the network the groups belong to.
        images: float32 `[N, C, H, W]` that it takes.
    """
    if not groups:
        return []
    generator = torch.Generator().manual_seed(seed)
    trial = [(group, _some(group.units, generator)) for group in groups]
    if _holds(trial, module, images):
        return list(groups)
    if len(groups) == 1:
        return []
    middle = len(groups) // 2
    return provable(groups[:middle], module, images, seed) + provable(groups[middle:], module, images, seed)


def _some(units: int, generator: torch.Generator) -> list[int]:
    """Half of the units, here and there, so that a wrong order shows."""
    return sorted(torch.randperm(units, generator=generator)[: units // 2].tolist())


@torch.no_grad()
def _holds(trial: Sequence[tuple[ChannelGroup, Sequence[int]]], module: nn.Module, images: torch.Tensor) -> bool:
    before = module(images)
    silenced = copy.deepcopy(module)
    for group, units in trial:
        group.silence(silenced, units)
    expected = silenced(images)
    with _put_back(module, trial[0][0].graph):
        try:
            for group, units in trial:
                group.remove(units)
            actual = module(images)
        except _MISFITS:
            return False
    if actual.shape != expected.shape:
        return False
    effect, error = float((expected - before).abs().max()), float((actual - expected).abs().max())
    return error <= _TOLERANCE * effect + _NOISE * float(expected.abs().max())


@contextmanager
def _put_back(module: nn.Module, graph: DependencyGraph) -> Iterator[None]:
    """Undo, at the end of the block, what pruning did to the modules and to the graph's own operators."""
    parts = {*module.modules(), *(part for part in graph.module2node if isinstance(part, nn.Module))}
    saved = [(part, dict(vars(part)), dict(part._parameters), dict(part._buffers)) for part in parts]
    lists = [(part, {k: list(v) for k, v in own.items() if isinstance(v, list)}) for part, own, _, _ in saved]
    try:
        yield
    finally:
        for part, own, parameters, buffers in saved:
            vars(part).update(own)
            part._parameters.clear()
            part._parameters.update(parameters)
            part._buffers.clear()
            part._buffers.update(buffers)
        for part, own_lists in lists:
            vars(part).update(own_lists)
