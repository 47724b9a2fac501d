"""Sensitivity: what quantizing one layer alone costs at the network's output."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import fx

from compress.core.errors import StageError, nearest
from compress.formats.parity import FidelityMeter
from compress.graph.capture import call_nodes, constant, layer_name
from compress.graph.op_kind import OpKind
from compress.graph.operators import WEIGHTED, kind_of
from compress.quantization.ptq import quantizers
from compress.quantization.simulation import switched
from compress.quantization.tensor_quantizer import Follower, Mode, TensorQuantizer

__all__ = ["SENSITIVITY_BATCHES", "LayerSensitivity", "layer_groups", "measure_sensitivity"]

SENSITIVITY_BATCHES = 4
"""Batches looked at, where nobody says how many."""


@dataclass(frozen=True)
class LayerSensitivity:
    """Loss of the network's output when only this layer is quantized.

    Attributes:
        name: of the layer, as `Recipe.keep_float` takes it (`layer1.0.conv1`), or of a group the caller defined.
        sqnr_db: of the network's output against the float graph's; inf where nothing changes.
        agreement_loss: share of samples whose top-1 class changes.
        weight_bytes: float32 size of the layer's weight, of which quantizing saves three quarters.
        macs: multiply-accumulates of the layer for one sample.
    """

    name: str
    sqnr_db: float
    agreement_loss: float
    weight_bytes: int
    macs: int


def layer_groups(prepared: fx.GraphModule) -> dict[str, frozenset[str]]:
    """Quantizers of the weight, the input and the output of each layer with a weight, in execution order."""
    groups: dict[str, frozenset[str]] = {}
    for node in call_nodes(prepared):
        if kind_of(node) not in WEIGHTED:
            continue
        neighbours = [*node.args[:2], _first_quantizer_after(prepared, node)]
        names = frozenset(name for neighbour in neighbours if (name := _tensor_name(prepared, neighbour)))
        if names:
            groups[layer_name(node)] = groups.get(layer_name(node), frozenset()) | names
    return groups


def measure_sensitivity(
    prepared: fx.GraphModule,
    reference: fx.GraphModule,
    batches: Callable[[], Iterable[torch.Tensor]],
    *,
    groups: Mapping[str, Collection[str]] | None = None,
    max_batches: int = SENSITIVITY_BATCHES,
) -> tuple[LayerSensitivity, ...]:
    """Quantize one layer after the other, alone, and compare the network's output with the float graph's.

    Of each batch the values inside the float network are kept, and only what depends on the quantized layer is computed
    anew: half the work of whole runs, for the memory of one batch's activations.

    Args:
        prepared: calibrated, with its weights as in `reference`; not changed.
        reference: the `float_graph` that it was prepared from.
        batches: images `[N, C, H, W]`, afresh each time; the network's output is `[N, classes]`.
        groups: names of quantizers by the name of what is quantized together; by default `layer_groups`.
        max_batches: batches looked at.

    Returns:
        One row for each group, in the order of `groups`.

    Raises:
        StageError: `prepared` was not calibrated, there are no batches, or a group names an unknown quantizer.
    """
    groups = layer_groups(prepared) if groups is None else groups
    _check_names(prepared, groups)
    meters = {name: FidelityMeter() for name in groups}
    with torch.no_grad():
        for batch in islice(batches(), max_batches):
            _measure_batch(prepared, reference(batch), batch, groups, meters)
    costs = _costs(prepared)
    rows = []
    for name, meter in meters.items():
        fidelity = meter.result()
        rows.append(LayerSensitivity(name, fidelity.sqnr_db, 1 - fidelity.agreement, *costs.get(name, (0, 0))))
    return tuple(rows)


def _measure_batch(
    prepared: fx.GraphModule,
    expected: torch.Tensor,
    batch: torch.Tensor,
    groups: Mapping[str, Collection[str]],
    meters: Mapping[str, FidelityMeter],
) -> None:
    interpreter = fx.Interpreter(prepared, garbage_collect_values=False)
    with switched(prepared, Mode.OFF):
        interpreter.run(batch)
    float_values = dict(interpreter.env)
    for name, names in groups.items():
        with switched(prepared, Mode.SIMULATE, only=names):
            actual = _rerun(prepared, interpreter, float_values, frozenset(names))
        meters[name].update(expected.cpu().numpy(), actual.cpu().numpy())


def _rerun(
    prepared: fx.GraphModule, interpreter: fx.Interpreter, values: Mapping[fx.Node, object], names: frozenset[str]
) -> torch.Tensor:
    """The network's output when only what follows from the quantizers `names` is computed anew."""
    interpreter.env = dict(values)
    changed: set[fx.Node] = set()
    result: object = None
    for node in prepared.graph.nodes:
        if node.op == "output":
            result = interpreter.run_node(node)
        elif _quantizes(prepared, node, names) or not changed.isdisjoint(node.all_input_nodes):
            interpreter.env[node] = interpreter.run_node(node)
            changed.add(node)
    output = prepared.graph.process_outputs(result)
    assert isinstance(output, torch.Tensor)
    return output


def _quantizes(prepared: fx.GraphModule, node: fx.Node, names: frozenset[str]) -> bool:
    if node.op != "call_module":
        return False
    module = prepared.get_submodule(str(node.target))
    return isinstance(module, TensorQuantizer) and module.name in names


def _first_quantizer_after(prepared: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The quantizer of a layer's output, behind the activation that is fused with it, if any."""
    users = list(node.users)
    if len(users) == 1 and users[0].op == "call_function" and kind_of(users[0]) in _ACTIVATIONS:
        users = list(users[0].users)
    return next((user for user in users if _tensor_name(prepared, user)), None)


_ACTIVATIONS = frozenset({OpKind.RELU, OpKind.CLIP, OpKind.LEAKY_RELU, OpKind.HARDSWISH, OpKind.SILU, OpKind.GELU})


def _tensor_name(prepared: fx.GraphModule, node: object) -> str | None:
    """Name of the tensor that a call of a quantizer (or its follower) quantizes."""
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    module = prepared.get_submodule(str(node.target))
    module = module.leader if isinstance(module, Follower) else module
    return module.name if isinstance(module, TensorQuantizer) else None


def _check_names(prepared: fx.GraphModule, groups: Mapping[str, Collection[str]]) -> None:
    known = quantizers(prepared)
    for group, names in groups.items():
        for name in names:
            if name not in known:
                raise StageError(f"sensitivity of {group!r}: no tensor {name!r} is quantized", fix=nearest(name, known))


def _costs(prepared: fx.GraphModule) -> dict[str, tuple[int, int]]:
    """Float32 bytes of the weight and multiply-accumulates for one sample, by layer name."""
    costs: dict[str, tuple[int, int]] = {}
    for node in call_nodes(prepared):
        weight = _weight(prepared, node) if kind_of(node) in WEIGHTED else None
        if weight is None:
            continue
        bytes_before, macs_before = costs.get(layer_name(node), (0, 0))
        size = max(bytes_before, weight.numel() * weight.element_size())  # a weight used twice is stored once
        costs[layer_name(node)] = (size, macs_before + _macs(node, weight))
    return costs


def _weight(prepared: fx.GraphModule, node: fx.Node) -> torch.Tensor | None:
    weight = node.args[1]
    if isinstance(weight, fx.Node) and weight.op == "call_module":
        weight = weight.args[0]
    return constant(prepared, weight)


def _macs(node: fx.Node, weight: torch.Tensor) -> int:
    """Each output element sums over `weight[0]`; of a transposed convolution, each input element spreads over it."""
    tensor = node.args[0] if kind_of(node) is OpKind.CONV_TRANSPOSE else node
    assert isinstance(tensor, fx.Node)
    sizes = [size for size in tensor.meta["val"].shape[1:] if isinstance(size, int)]
    return int(torch.Size(sizes).numel()) * int(weight[0].numel())
