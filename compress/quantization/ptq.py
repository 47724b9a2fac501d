"""Static post-training quantization: capture, rewrite, prepare, calibrate once for all layers, convert.

The result is a captured graph with explicit `quantized_decomposed` Q/DQ operators. That graph is the contract: every
exporter carries its scales, whoever chose them.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable

import torch
from torch import fx, nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.graph.capture import call_nodes, capture, constant, layer_name
from compress.graph.op_kind import OpKind
from compress.graph.operators import WEIGHTED, kind_of, lossless_range
from compress.quantization.batchnorm import fold_graph
from compress.quantization.computed_weights import fold_parameters
from compress.quantization.integer_forms import expand
from compress.quantization.joins import share_where_free
from compress.quantization.number_operands import numbers_as_tensors
from compress.quantization.placement import (
    PlacementQuantizer,
    Recipe,
    float_operators,
    float_weights,
    guarded_operators,
    output_of,
)
from compress.quantization.policy import Policy
from compress.quantization.pt2e import prepare_pt2e
from compress.quantization.rewrite import rewrite_for_kernels
from compress.quantization.tensor_quantizer import (
    BiasQuantizer,
    Follower,
    Mode,
    TensorQuantizer,
    one_dequantize_per_reader,
)
from compress.support.quiet import quiet

__all__ = [
    "calibrate",
    "convert",
    "float_graph",
    "guard_reasons",
    "layers_in_float",
    "make_room_for_biases",
    "prepare",
    "quantizers",
    "set_mode",
    "weights_in_float",
]


def float_graph(module: nn.Module, input: InputSpec, policy: Policy | None = None) -> fx.GraphModule:
    """The captured, BatchNorm-folded, kernel-friendly float graph that placement works on; its weights are stored.

    `module` is not changed, but weights that are in both are shared: copy the graph before training it.

    Args:
        policy: the runtime it is for, whose `expands` are written with other operators. One that leaves nothing in
            float gets numbers in sums and products as tensors.

    Raises:
        ModelError: the module cannot be captured.
    """
    graph = capture(module, input)
    if graph is module:
        graph = copy.deepcopy(graph)
    fold_parameters(graph)
    fold_graph(graph)
    if policy is not None:
        expand(graph, policy.expands)
        if policy.unlisted is not None:
            numbers_as_tensors(graph)
    rewrite_for_kernels(graph)
    return graph


def layers_in_float(graph: fx.GraphModule, recipe: Recipe) -> Counter[str]:
    """Names and numbers of the operators of a `float_graph` that `recipe` leaves in float."""
    return float_operators(graph, PlacementQuantizer(recipe))


def weights_in_float(graph: fx.GraphModule, recipe: Recipe) -> dict[str, float]:
    """Layers of a `float_graph` whose weights `recipe` leaves in float, and their share of all weights."""
    return float_weights(graph, PlacementQuantizer(recipe))


def guard_reasons(graph: fx.GraphModule, recipe: Recipe) -> dict[str, str]:
    """Reasons, by layer name, why layers of a `float_graph` stay in float although their kind of operator does not."""
    guarded = guarded_operators(graph, PlacementQuantizer(recipe))
    return {layer_name(node): guard.reason for node, guard in guarded.items()}


def prepare(graph: fx.GraphModule, recipe: Recipe) -> fx.GraphModule:
    """A `float_graph` with a quantizer module wherever the recipe's policy places a Q/DQ pair. Changes `graph`."""
    quantizer = PlacementQuantizer(recipe)
    for node in guarded_operators(graph, quantizer):
        _stand_in_the_way(graph, node)
    with quiet():
        prepared = prepare_pt2e(graph, quantizer)
    assert isinstance(prepared, fx.GraphModule)
    _describe(prepared, recipe)
    _connect_biases(prepared)
    return prepared


def quantizers(prepared: fx.GraphModule) -> dict[str, TensorQuantizer]:
    """Every quantizer by the name of its tensor: `layer1.0.conv1.weight`, `layer1.0.relu` (an output), `input`."""
    return {module.name: module for module in prepared.modules() if isinstance(module, TensorQuantizer)}


def set_mode(prepared: fx.GraphModule, mode: Mode, *, only: Collection[str] | None = None) -> None:
    """Switch every quantizer, or those named in `only` (see `quantizers`), to `mode`."""
    for name, quantizer in quantizers(prepared).items():
        if only is None or name in only:
            quantizer.mode = mode


def calibrate(prepared: fx.GraphModule, batches: Iterable[torch.Tensor]) -> int:
    """Run every batch `[N, C, H, W]` once; all quantizers observe, and what is joined shares grids where that is free.
    Returns the number of samples.

    Raises:
        StageError: no batch at all, or NaN or infinity met (names the layer).
    """
    samples = 0
    with torch.no_grad():
        for batch in batches:
            prepared(batch)
            samples += len(batch)
    if not samples:
        raise StageError("the calibration split is empty", fix="raise data.calibration to at least 1 image")
    share_where_free(prepared)
    return samples


def make_room_for_biases(prepared: fx.GraphModule) -> None:
    """Coarsen weight scales so far that no int32 bias overflows; scales are final after that."""
    for node in prepared.graph.find_nodes(op="call_module"):
        quantizer, bias = prepared.get_submodule(str(node.target)), constant(prepared, node.args[0])
        if isinstance(quantizer, BiasQuantizer) and bias is not None:
            quantizer.make_room(bias)


def convert(prepared: fx.GraphModule) -> fx.GraphModule:
    """The calibrated graph with explicit Q/DQ and integer weights. Changes `prepared`.

    As `convert_pt2e` with quantizers that convert themselves, which compiles the graph once and not six times.
    """
    make_room_for_biases(prepared)
    graph = prepared.graph
    for node in graph.find_nodes(op="call_module"):
        quantizer = prepared.get_submodule(str(node.target))
        assert isinstance(quantizer, (TensorQuantizer, Follower, BiasQuantizer))
        quantizer.convert(prepared, node)
    one_dequantize_per_reader(graph)
    graph.eliminate_dead_code()
    return fx.GraphModule(prepared, graph).eval()  # a fresh module: the float weights must not travel along


def _stand_in_the_way(graph: fx.GraphModule, node: fx.Node) -> None:
    """Follow `node` by the larger of its output and its output. Between its neighbours' Q/DQ pairs a runtime would fuse
    it into the very kernel that is to be avoided, and it removes every other operator that changes nothing."""
    with graph.graph.inserting_after(node):
        same = graph.graph.call_function(torch.ops.aten.maximum.default, (node, node))
    same.meta = dict(node.meta)
    node.replace_all_uses_with(same, delete_user_cb=lambda user: user is not same)
    graph.recompile()


def _describe(prepared: fx.GraphModule, recipe: Recipe) -> None:
    """Name the quantizers, tell them what their readers ignore, and let rearranged tensors follow their source."""
    calls = list(prepared.graph.find_nodes(op="call_module"))
    uses = Counter(id(prepared.get_submodule(str(node.target))) for node in calls)
    names: set[str] = set()
    for node in calls:
        quantizer, source = prepared.get_submodule(str(node.target)), node.args[0]
        if not isinstance(quantizer, TensorQuantizer) or not isinstance(source, fx.Node):
            continue
        if not quantizer.name:
            name = _unused(layer_name(source), names)
            limits = _limits(node) if uses[id(quantizer)] == 1 else _UNLIMITED
            summed = any(_sums(user, recipe) for user in node.users)
            is_constant, joins = source.op == "get_attr", output_of(source, recipe.policy) == "joined"
            quantizer.describe(name, limits=limits, is_constant=is_constant, summed=summed, joins=joins)
        elif _rearranges(source, recipe):
            node.target = _unused(f"{node.target}_follower", names)
            prepared.add_submodule(node.target, Follower(quantizer))
    prepared.recompile()


_UNLIMITED = (float("-inf"), float("inf"))


def _limits(node: fx.Node) -> tuple[float, float]:
    ranges = [lossless_range(user) for user in node.users]
    return (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else _UNLIMITED


def _rearranges(source: fx.Node, recipe: Recipe) -> bool:
    return output_of(source, recipe.policy) == "shared"


def _sums(reader: fx.Node, recipe: Recipe) -> bool:
    """An average on its input's own grid does not: it is rounded again, the more coarsely the wider that grid is."""
    return reader.op != "output" and not (kind_of(reader) is OpKind.AVG_POOL and _rearranges(reader, recipe))


def _unused(name: str, names: set[str]) -> str:
    number = 1
    unique = name
    while unique in names:
        number += 1
        unique = f"{name}#{number}"
    names.add(unique)
    return unique


def _connect_biases(prepared: fx.GraphModule) -> None:
    for node in call_nodes(prepared):
        if kind_of(node) not in WEIGHTED:
            continue
        source, weight, bias = ([_module_called(prepared, arg) for arg in node.args[:3]] + [None])[:3]
        if isinstance(bias, BiasQuantizer):
            assert isinstance(source, (TensorQuantizer, Follower))
            assert isinstance(weight, TensorQuantizer)
            bias.input, bias.weight = source, weight


def _module_called(graph: fx.GraphModule, node: object) -> nn.Module | None:
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return graph.get_submodule(str(node.target)) if is_call and isinstance(node, fx.Node) else None
