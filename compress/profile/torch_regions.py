"""Regions of a PyTorch module's call: each leaf module, and each call of torch that is in none of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.profiler import record_function
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["LAYER", "Counter", "Marker", "Watcher", "Work", "watched"]

LAYER = "edge-compress-layer:"
"""Beginning of a region's name in the profiler's events."""


@dataclass(frozen=True)
class Work:
    """Work that one region did when it was counted; `op` is the module's class or the function."""

    name: str
    op: str
    operations: int
    bytes: int


class Watcher(Protocol):
    """Told of each region while a module runs."""

    def begin(self, name: str) -> None: ...
    def end(self, name: str, op: str, inputs: Sequence[object], output: object) -> None: ...


class _Regions(TorchFunctionMode):
    """Tells `watcher` of each leaf module of `module`, and of each call of torch that is in none of them."""

    def __init__(self, module: nn.Module, watcher: Watcher) -> None:
        super().__init__()
        self._watcher = watcher
        self._parameters = {id(value): name.rpartition(".")[0] for name, value in module.named_parameters()}
        self._open: list[str] = []
        self._modules: list[str | None] = []
        self._used: dict[str, int] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        if self._open:
            return func(*args, **(kwargs or {}))
        op = str(getattr(func, "__name__", func)).partition(".")[0]
        name = self.enter(next((self._parameters[id(value)] for value in args if id(value) in self._parameters), op))
        output = func(*args, **(kwargs or {}))
        self.leave(name, op, args, output)
        return output

    def enter(self, wanted: str) -> str:
        """Begin a region; its name is `wanted`, with a number where that was used in this call already."""
        count = self._used[wanted] = self._used.get(wanted, -1) + 1
        name = f"{wanted}_{count}" if count else wanted
        self._watcher.begin(name)
        self._open.append(name)
        return name

    def leave(self, name: str, op: str, inputs: Sequence[object], output: object) -> None:
        """End the region."""
        self._open.remove(name)
        self._watcher.end(name, op, inputs, output)

    def resume(self) -> None:
        """Be the mode again if a leaf module that began has not ended."""
        if any(name is not None for name in self._modules):
            self._modules.clear()
            self.__enter__()

    def enter_module(self, name: str) -> None:
        """A leaf module begins; one that another leaf calls is part of that one."""
        if self._open:
            self._modules.append(None)
            return
        self.__exit__(None, None, None)  # inside a leaf the mode would only cost time, 40 us a layer
        self._modules.append(self.enter(name))

    def leave_module(self, part: nn.Module, inputs: Sequence[object], output: object) -> None:
        """The leaf module that began last ends."""
        name = self._modules.pop()
        if name is not None:
            self.leave(name, type(part).__name__, [*inputs, *part.parameters(recurse=False)], output)
            self.__enter__()


class Counter:
    """Counts the work of each region with PyTorch's own counter; calls that give no tensor are no layers."""

    def __init__(self, flops: FlopCounterMode) -> None:
        self._flops = flops
        self._before = 0
        self.work: list[Work] = []

    def begin(self, name: str) -> None:
        self._before = self._flops.get_total_flops()

    def end(self, name: str, op: str, inputs: Sequence[object], output: object) -> None:
        results = _tensors([output])
        if not results:
            return
        given = _tensors(inputs)
        operations = self._flops.get_total_flops() - self._before
        memory = {value.untyped_storage().data_ptr() for value in given}
        if all(value.untyped_storage().data_ptr() in memory for value in results) and not operations:
            self.work.append(Work(name, op, 0, 0))  # a view of what came in: nothing moves
            return
        moved = sum(value.numel() * value.element_size() for value in (*given, *results))
        self.work.append(Work(name, op, operations or sum(value.numel() for value in results), moved))


class Marker:
    """Marks each region for the profiler."""

    def __init__(self) -> None:
        self._open: dict[str, record_function] = {}

    def begin(self, name: str) -> None:
        self._open[name] = record_function(LAYER + name)
        self._open[name].__enter__()

    def end(self, name: str, op: str, inputs: Sequence[object], output: object) -> None:
        self._open.pop(name).__exit__(None, None, None)


@contextmanager
def watched(module: nn.Module, watcher: Watcher) -> Iterator[None]:
    """Show `watcher` one call of `module` while open; hooks are taken off again."""
    regions = _Regions(module, watcher)
    with ExitStack() as stack:
        for name, part in module.named_modules():
            if not any(True for _ in part.children()):
                before = part.register_forward_pre_hook(lambda _, __, name=name: regions.enter_module(name or "model"))
                after = part.register_forward_hook(regions.leave_module)
                stack.callback(before.remove)
                stack.callback(after.remove)
        stack.enter_context(regions)
        stack.callback(regions.resume)  # before the mode is left: a module that failed has left it already
        yield


def _tensors(values: Iterable[object]) -> list[torch.Tensor]:
    """Tensors among values and in their lists and tuples."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += _tensors(value)
    return found
