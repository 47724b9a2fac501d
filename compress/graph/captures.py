"""Captured graphs, kept for as long as the module that they were traced from lives and stays what it was.

The stages of a run capture the same module again and again, and tracing a network of real size takes seconds. Weights
may change in place in the meantime, as they are shared with the graph; any other change makes the graph stale.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from itertools import chain
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

__all__ = ["remembered"]

_PLAIN = (bool, int, float, str, tuple, list, type(None))


@dataclass(frozen=True)
class _Kept:
    """A graph and what it was traced from; the tensors are held, so that no other gets their identity."""

    graph: fx.GraphModule
    state: tuple[Hashable, ...]
    tensors: tuple[torch.Tensor, ...]


_kept: WeakKeyDictionary[nn.Module, dict[Hashable, _Kept]] = WeakKeyDictionary()


def remembered(module: nn.Module, asked: Hashable, trace: Callable[[], fx.GraphModule]) -> fx.GraphModule:
    """The graph that `trace` gave for `module` when it was last `asked` for so, or gives now; the caller may change it.

    The copies share their tensors with each other and with `module`.
    """
    state, graphs = tuple(_state(module)), _kept.setdefault(module, {})
    kept = graphs.get(asked)
    if kept is None or kept.state != state:
        tensors = tuple(chain(module.parameters(), module.buffers()))
        kept = graphs[asked] = _Kept(trace(), state, tensors)
    return _copied(kept.graph)


def _copied(graph: fx.GraphModule) -> fx.GraphModule:
    shared = {id(tensor): tensor for tensor in chain(graph.parameters(), graph.buffers())}
    copied = copy.deepcopy(graph, shared)
    assert isinstance(copied, fx.GraphModule)
    return copied


def _state(module: nn.Module) -> Iterator[Hashable]:
    """Everything that tracing reads from a module: its parts, their tensors and their settings."""
    for name, part in module.named_modules(remove_duplicate=False):
        yield name, type(part)
        for key, value in vars(part).items():
            if isinstance(value, dict):  # parameters, buffers and hooks
                yield key, tuple((entry, id(member)) for entry, member in value.items())
            else:
                yield key, repr(value) if isinstance(value, _PLAIN) else id(value)
