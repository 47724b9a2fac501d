"""Residual blocks as a whole: which branches `x + f(x)` can be dropped, and what that does to the outputs."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from compress.core.artifact import InputSpec
from compress.graph.capture import call_nodes, capture, parameter_name, tensor_inputs

__all__ = ["Block", "Nothing", "drop", "drop_damage", "find_blocks"]

_ADD = torch.ops.aten.add.Tensor


class Nothing(nn.Module):
    """Layer in place of a dropped branch: zeros of its input's shape. Exporters remove it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(images)


@dataclass(frozen=True)
class Block:
    """The branch f of one `x + f(x)`.

    Attributes:
        name: of the module that encloses its layers.
        layers: modules with parameters that serve the branch alone.
    """

    name: str
    layers: tuple[str, ...]


def find_blocks(module: nn.Module, input: InputSpec) -> list[Block]:
    """Branches that can be dropped, first to last: what enters such a branch leaves it in the same shape.

    Each proves itself: without its layers the network computes what it computes when the branch gives zeros.

    Raises:
        ModelError: the module cannot be captured.
    """
    graph = capture(module, input)
    leaves = {name for name, part in module.named_modules() if name and not [*part.children()]}
    images = torch.randn(1, *input.shape, generator=torch.Generator().manual_seed(0))
    blocks: dict[str, Block] = {}
    for node in call_nodes(graph):
        for end, branch in _branches(node):
            inside = [name for part in call_nodes(graph) if part in branch for name in _layers_of(part)]
            layers = tuple(dict.fromkeys(name for name in inside if name in leaves))
            if layers and not _works_elsewhere(graph, layers, branch):
                block = Block(_common(layers), layers)
                if block.name not in blocks and _equals_zeros(module, block, graph, end, images):
                    blocks[block.name] = block
    return list(blocks.values())


def drop(module: nn.Module, block: Block) -> None:
    """Replace the layers of the branch, in place."""
    for name in block.layers:
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, Nothing())


@torch.no_grad()
def drop_damage(
    module: nn.Module, blocks: Iterable[Block], images: Iterable[torch.Tensor], expected: Iterable[torch.Tensor]
) -> dict[str, float]:
    """Mean divergence KL(expected || found) of the class probabilities without each block alone, by block name.

    Args:
        images: batches `[N, C, H, W]`.
        expected: logits `[N, classes]` of the whole network on each of them.
    """
    pairs = list(zip(images, expected, strict=True))
    damage = {}
    for block in blocks:
        with _dropped(module, block):
            divergence = [F.kl_div(_log(module(x)), _log(y), log_target=True, reduction="sum") for x, y in pairs]
        damage[block.name] = float(sum(divergence)) / sum(len(batch) for batch, _ in pairs)
    return damage


def _log(logits: torch.Tensor) -> torch.Tensor:
    return F.log_softmax(logits.float(), dim=1)


@contextmanager
def _dropped(module: nn.Module, block: Block) -> Iterator[None]:
    own = {name: module.get_submodule(name) for name in block.layers}
    drop(module, block)
    try:
        yield
    finally:
        for name, part in own.items():
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, part)


@torch.no_grad()
def _equals_zeros(module: nn.Module, block: Block, graph: fx.GraphModule, end: fx.Node, images: torch.Tensor) -> bool:
    expected = _Silenced(graph, end).run(images)
    trial = copy.deepcopy(module).eval()
    drop(trial, block)
    try:
        actual = trial(images)
    except (RuntimeError, ValueError, TypeError, AttributeError):
        return False
    return bool(torch.allclose(actual, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())))


class _Silenced(fx.Interpreter):
    """Runs a graph in which one operator gives zeros."""

    def __init__(self, graph: fx.GraphModule, silent: fx.Node) -> None:
        super().__init__(graph)
        self._silent = silent

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        return torch.zeros_like(value) if n is self._silent else value


def _branches(node: fx.Node) -> Iterator[tuple[fx.Node, frozenset[fx.Node]]]:
    """Yield each side of `a + b` that is computed from the other and used for nothing else, with its operators."""
    inputs = [part for part in node.args[:2] if isinstance(part, fx.Node)]
    if node.target is not _ADD or len(inputs) != 2 or _shape(inputs[0]) != _shape(inputs[1]):
        return
    for end, start in (inputs, inputs[::-1]):
        branch = _between(start, end)
        if branch and all(user in branch or user is node for part in branch for user in part.users):
            yield end, branch


def _between(start: fx.Node, end: fx.Node) -> frozenset[fx.Node] | None:
    """The operators from `start` (exclusive) to `end`; None if `end` depends on anything else that is computed."""
    operators: set[fx.Node] = set()
    waiting = [end]
    while waiting:
        part = waiting.pop()
        if part is start or part in operators or part.op == "get_attr":
            continue
        if part.op != "call_function":
            return None
        operators.add(part)
        waiting += tensor_inputs(part)
    return frozenset(operators) if any(start in part.all_input_nodes for part in operators) else None


def _shape(node: fx.Node) -> tuple[object, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape[1:]) if isinstance(value, torch.Tensor) else None


def _layers_of(node: fx.Node) -> list[str]:
    """The modules whose parameters the operator reads."""
    names = [name for part in node.all_input_nodes if (name := parameter_name(part))]
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _works_elsewhere(graph: fx.GraphModule, layers: tuple[str, ...], branch: frozenset[fx.Node]) -> bool:
    return any(not {*layers}.isdisjoint(_layers_of(node)) for node in call_nodes(graph) if node not in branch)


def _common(layers: tuple[str, ...]) -> str:
    """`layer1.0` for `layer1.0.conv1` and `layer1.0.bn1`."""
    parts = [name.split(".") for name in layers]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return ".".join(parts[0][:shared]) or layers[0]
