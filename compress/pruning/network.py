"""A copy of a network made ready for structured pruning: its groups found and proven, its layers measured."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.models.watching import watch_one_image
from compress.pruning.attention import separate_heads
from compress.pruning.groups import ChannelGroup, Group, channel_groups, head_groups, provable
from compress.pruning.names import matching, require_matches
from compress.pruning.shapes import LayerShape, layer_shapes
from compress.support.quiet import first_line

if TYPE_CHECKING:
    from torch_pruning import DependencyGraph

__all__ = ["Network", "analyse"]

_LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)


@dataclass(frozen=True, eq=False)
class Network:
    """A module whose groups can be cut.

    Attributes:
        module: the copy that is cut, in eval mode.
        groups: channels and heads that may go.
        channel_groups: those of them that the dependency graph found.
        shapes: layers that run, before anything is cut.
        held: names of groups that did not prove themselves and stay whole.
    """

    module: nn.Module
    groups: tuple[Group, ...]
    channel_groups: tuple[ChannelGroup, ...]
    shapes: Mapping[str, LayerShape]
    held: tuple[str, ...]

    def remove(self, removed: Mapping[str, Sequence[int]], images: torch.Tensor, stage: str) -> None:
        """Cut these units, by group name, in place.

        Raises:
            StageError: the network does not run afterwards, which the proof of the groups should have excluded.
        """
        for group in self.groups:
            if removed.get(group.name):
                group.remove(removed[group.name])
        for parameter in self.module.parameters():
            parameter.grad = None
        try:
            with torch.no_grad():
                self.module(images)
        except (RuntimeError, ValueError) as error:
            raise StageError(
                f"stage {stage!r}: the pruned model does not run: {first_line(error)}",
                fix=f"stage.{stage}.exclude=[<the layers named there>]",
            ) from error


def analyse(module: nn.Module, input: InputSpec, exclude: Sequence[str], stage: str, seed: int) -> Network:
    """Copy the module and find what can be cut out of it.

    Args:
        exclude: patterns of layers, or of enclosing modules, that keep all their outputs.

    Raises:
        StageError: the module cannot be traced, shares weights between layers, has nothing to cut, or a pattern that
            matches nothing.
    """
    _require_layers(module, stage)
    module = copy.deepcopy(module).eval()
    names = [name for name, part in module.named_modules() if isinstance(part, _LAYERS)]
    require_matches(names, exclude, stage)
    keep = matching(names, exclude)
    _refuse_shared(module, keep, stage)
    separate_heads(module, input)
    graph = _traced(module, input, keep, stage)
    images = torch.randn(2, *input.shape, generator=torch.Generator().manual_seed(seed))
    groups, failed = channel_groups(graph, module, keep)
    proven = provable(groups, module, images if _takes_two(module, images) else images[:1], seed)
    heads = [group for group in head_groups(module) if group.name not in keep]
    if not proven and not heads:
        raise StageError(f"stage {stage!r}: no channel of the model can be cut", fix=f"~stage.{stage}")
    held = (*(group.name for group in groups if group not in proven), *failed)
    return Network(module, (*proven, *heads), tuple(proven), layer_shapes(module, input), held)


def _require_layers(module: nn.Module, stage: str) -> None:
    if any(isinstance(part, _LAYERS) for part in module.modules()):
        return
    if isinstance(module, fx.GraphModule):
        raise StageError(
            f"stage {stage!r}: the model is a captured graph of operators; its layers cannot be made smaller",
            fix="give it as Python code (model=factory), or prune unstructured with magnitude",
        )
    raise StageError(f"stage {stage!r}: the model has no convolution or linear layer", fix=f"~stage.{stage}")


def _refuse_shared(module: nn.Module, keep: frozenset[str], stage: str) -> None:
    """A weight of two layers cannot be cut for one of them."""
    owners: dict[int, list[str]] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        for attribute, parameter in part._parameters.items():
            if parameter is not None and isinstance(part, _LAYERS):
                owners.setdefault(id(parameter), []).append(name if attribute == "weight" else f"{name}.{attribute}")
    for sharing in owners.values():
        if len(sharing) > 1 and not set(sharing) <= keep:
            raise StageError(
                f"stage {stage!r}: {' and '.join(sharing)} share one weight, cutting one would cut the other",
                fix=f"stage.{stage}.exclude=[{','.join(sharing)}], or give each its own copy",
            )


def _traced(module: nn.Module, input: InputSpec, keep: frozenset[str], stage: str) -> DependencyGraph:
    """The dependency graph of one forward pass.

    Raises:
        StageError: naming the module that gradients, and so the tracing, do not pass.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    ran = _run_order(module, input)
    try:
        graph = _dependency_graph(module, torch.zeros(1, *input.shape))
    except (RuntimeError, AttributeError, TypeError, KeyError, AssertionError) as error:
        raise _untraceable(_last(ran), first_line(error), stage) from error
    for name, part in ran.items():
        if part not in graph.module2node and name not in keep:
            raise _untraceable(name, "no gradient flows from it to the output (detach, no_grad or numpy)", stage)
    return graph


def _dependency_graph(module: nn.Module, images: torch.Tensor) -> DependencyGraph:
    from torch_pruning import DependencyGraph

    class WithoutReshapes(DependencyGraph):
        """Takes every reshape as leaving the channels in place."""

        def _trace(self, *arguments: object, **named: object) -> object:
            nodes = super()._trace(*arguments, **named)
            self._2d_4d = False  # torch-pruning's own switch for it
            return nodes

    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return DependencyGraph().build_dependency(module, images, verbose=False)
        except ZeroDivisionError:  # torch-pruning 1.6 on a channel shuffle, whose reshape it takes for a flattening
            return WithoutReshapes().build_dependency(module, images, verbose=False)


def _untraceable(name: str, reason: str, stage: str) -> StageError:
    return StageError(
        f"stage {stage!r}: the model cannot be traced through {name!r}: {reason}",
        fix=f"stage.{stage}.exclude=[{name}], or keep its forward pass in differentiable torch operations",
    )


def _run_order(module: nn.Module, input: InputSpec) -> dict[str, nn.Module]:
    """Layers by name in the order in which they ran, those inside attention aside."""
    names = {part: name for name, part in module.named_modules()}
    hidden = {sub for part in module.modules() if isinstance(part, nn.MultiheadAttention) for sub in part.children()}
    ran: dict[str, nn.Module] = {}

    def note(part: nn.Module, arguments: object, named: object, output: object) -> None:
        ran[names[part]] = part

    parts = [part for part in names if isinstance(part, nn.modules.conv._ConvNd | nn.Linear) and part not in hidden]
    watch_one_image(module, input, parts, note)
    return ran


def _last(names: Iterable[str]) -> str:
    return list(names)[-1] if names else "its first layer"


def _takes_two(module: nn.Module, images: torch.Tensor) -> bool:
    try:
        with torch.no_grad():
            return len(module(images)) == len(images)
    except (RuntimeError, ValueError, TypeError):
        return False
