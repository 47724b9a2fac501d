"""The one quantizer: reads a placement policy and says where Q/DQ pairs go. No other code decides placement."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import fx

from compress.graph.capture import call_nodes, constant, layer_name, only_user
from compress.graph.op_kind import OpKind
from compress.graph.operators import (
    WEIGHTED,
    activations,
    bias_of,
    groups_of,
    kind_of,
    output_axis,
    pads_with_another_value,
    weight_of,
)
from compress.quantization.grid import activation_grid, weight_grid
from compress.quantization.observers.base import RangeObserver
from compress.quantization.observers.min_max import MinMax
from compress.quantization.policy import FixedRange, Guard, OpRule, Output, Policy
from compress.quantization.pt2e import (
    Q_ANNOTATION_KEY,
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)
from compress.quantization.tensor_quantizer import BiasQuantizer, TensorQuantizer

__all__ = [
    "PlacementQuantizer",
    "Recipe",
    "float_operators",
    "float_weights",
    "fused_activations",
    "guarded_operators",
    "output_of",
]

_TWO_TENSORS = frozenset({OpKind.ADD, OpKind.MUL, OpKind.MATMUL})
"""Kinds with a kernel for two tensors only; a tensor and a number stay in float."""


@dataclass(frozen=True)
class Recipe:
    """Recipe of quantization, within what the policy allows.

    Attributes:
        policy: where, and in which integers.
        activation_observer: makes the observer of one activation.
        weight_observer: makes the observer of one weight.
        per_channel: one weight scale per output channel, else one per tensor.
        reduce_range: weights in 7 bits.
        keep_float: names of layers (`layer1.0.conv1`) to leave in float.
        runtime_version: of the policy's runtime on the device; None where the target pins none.
    """

    policy: Policy
    activation_observer: Callable[[], RangeObserver]
    weight_observer: Callable[[], RangeObserver] = MinMax
    per_channel: bool = True
    reduce_range: bool = False
    keep_float: Collection[str] = field(default=frozenset())
    runtime_version: str | None = None


class PlacementQuantizer(Quantizer):
    """Annotates a captured graph by a policy, in execution order."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._guards = recipe.policy.active_guards(recipe.runtime_version)

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        """Set the annotation of every operator that the policy quantizes; `model` is changed and returned."""
        quantized: set[fx.Node] = set()  # activations known to be in integers already
        absorbed: set[fx.Node] = set()  # computed by the operator before them: a pair in between would stop that
        for node in call_nodes(model):
            rule = self.rule_of(node)
            if rule is not None and node not in absorbed:
                self._annotate(node, rule, quantized)
                absorbed.update(fused_activations(node, rule))
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Nothing to check: a policy cannot be broken by an annotation made from it."""

    def guard_of(self, node: fx.Node) -> Guard | None:
        """Guard that keeps an operator in float although its kind has a rule: its kernel is known to be wrong."""
        kind = kind_of(node)
        guards = [guard for guard in self._guards if guard.operator is kind]
        return next((guard for guard in guards if _arguments(node).items() >= guard.when.items()), None)

    def keeps(self, layer: str) -> bool:
        """Tell whether the recipe asks for that layer in float."""
        return layer in self._recipe.keep_float

    def rule_of(self, node: fx.Node) -> OpRule | None:
        """The rule an operator follows; None when it stays in float."""
        kind = kind_of(node)
        if self.guard_of(node) is not None:
            return None
        if self.keeps(layer_name(node)) or not activations(node):
            return None
        if kind is not OpKind.SPLIT and _has_several_results(node):
            return None
        if kind in WEIGHTED and weight_of(node) is None:
            return None
        if kind in _TWO_TENSORS and sum(isinstance(operand, fx.Node) for operand in node.args[:2]) < 2:
            return None
        return self._recipe.policy.rule(kind)

    def _annotate(self, node: fx.Node, rule: OpRule, quantized: set[fx.Node]) -> None:
        sources = activations(node)
        if rule.inputs == "residual":
            sources = _residual(sources)
        elif rule.inputs == "none":
            sources = [source for source in sources if source in quantized]
        if not sources or (rule.inputs == "none" and rule.output == "none"):
            return
        specs = _annotation(node).input_qspec_map
        shared = _first_edge(node, sources) if output_of(node, self._recipe.policy) == "shared" else None
        if node.target is not operator.getitem:
            specs.update(dict.fromkeys(sources, self._activation()))
        if shared:
            specs.update((other, SharedQuantizationSpec(shared)) for other in sources[1:])
        if kind_of(node) in WEIGHTED:
            per_channel = self._recipe.per_channel and not rule.per_tensor and not _shares_outputs(node)
            specs.update(self._parameter_specs(node, per_channel=per_channel))
        if rule.output != "none":
            self._annotate_output(node, rule, shared, quantized)

    def _parameter_specs(self, node: fx.Node, *, per_channel: bool) -> dict[fx.Node, QuantizationSpecBase]:
        weight, bias = weight_of(node), bias_of(node)
        assert weight is not None
        specs: dict[fx.Node, QuantizationSpecBase] = {weight: self._weight(output_axis(node), per_channel=per_channel)}
        if bias is not None and self._recipe.policy.bias == "int32":
            specs[bias] = _BIAS
        return specs

    def _annotate_output(
        self, node: fx.Node, rule: OpRule, shared: tuple[fx.Node, fx.Node] | None, quantized: set[fx.Node]
    ) -> None:
        last = [node, *fused_activations(node, rule)][-1]
        if rule.float_at_end and all(user.op == "output" for user in last.users):
            return
        value = last.meta.get("val")
        if isinstance(value, torch.Tensor) and not value.is_floating_point():
            return  # a mask or an index: it has no scale
        quantized.add(last)
        if isinstance(value, torch.Tensor):  # a split hands on a list; its pieces have their own nodes
            _annotation(last).output_qspec = SharedQuantizationSpec(shared) if shared else self._activation(rule.fixed)

    def _activation(self, fixed: FixedRange | None = None) -> QuantizationSpec:
        grid = activation_grid(self._recipe.policy.activation)
        scheme = torch.per_tensor_symmetric if grid.symmetric else torch.per_tensor_affine
        make = TensorQuantizer.with_args(grid=grid, observer=self._recipe.activation_observer, fixed=fixed)
        return QuantizationSpec(grid.dtype, make, grid.minimum, grid.maximum, scheme)

    def _weight(self, axis: int, *, per_channel: bool) -> QuantizationSpec:
        recipe = self._recipe
        grid = weight_grid(recipe.policy.weight, reduce_range=recipe.reduce_range)
        make = TensorQuantizer.with_args(grid=grid, observer=recipe.weight_observer, axis=axis if per_channel else None)
        scheme = torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric
        return QuantizationSpec(grid.dtype, make, grid.minimum, grid.maximum, scheme, axis)


_BIAS = QuantizationSpec(torch.int32, BiasQuantizer)


def output_of(node: fx.Node, policy: Policy) -> Output:
    """Whose scale an operator's output has. A padding by a number joins that number to its input."""
    rule = policy.rule(kind_of(node))
    if rule is None:
        return "none"
    return "joined" if rule.output == "shared" and pads_with_another_value(node) else rule.output


def _has_several_results(node: fx.Node) -> bool:
    """Tell whether it gives several tensors (an LSTM: outputs, states), or is one of them; no runtime has integers."""
    whole = node.args[0] if node.target is operator.getitem else node
    return isinstance(whole, fx.Node) and isinstance(whole.meta.get("val"), (tuple, list))


def _shares_outputs(node: fx.Node) -> bool:
    """Tell whether a place of a weight's output axis serves several channels: `[in, out / groups, ...]`, transposed."""
    return kind_of(node) is OpKind.CONV_TRANSPOSE and groups_of(node) > 1


def _annotation(node: fx.Node) -> QuantizationAnnotation:
    annotation = node.meta.setdefault(Q_ANNOTATION_KEY, QuantizationAnnotation(_annotated=True))
    assert isinstance(annotation, QuantizationAnnotation)
    return annotation


def _arguments(node: fx.Node) -> dict[str, object]:
    """Arguments of an operator, by the names of its schema, defaults included; without tensors."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    names = [argument.name for argument in schema.arguments]
    values = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    values.update(zip(names, node.args, strict=False))
    values.update(node.kwargs)
    return {name: value for name, value in values.items() if isinstance(value, (bool, int))}


def guarded_operators(graph: fx.GraphModule, quantizer: PlacementQuantizer) -> dict[fx.Node, Guard]:
    """Operators that stay in float because the runtime's integer kernel is wrong for them, in execution order."""
    read = [
        node for node in call_nodes(graph) if any(user.op != "output" for user in node.users)
    ]  # the end stays float
    guards = {node: quantizer.guard_of(node) for node in read}
    return {node: guard for node, guard in guards.items() if guard is not None}


def fused_activations(node: fx.Node, rule: OpRule) -> list[fx.Node]:
    """The operators after `node` that the runtime computes together with it, in order."""
    fused: list[fx.Node] = []
    user = only_user(node)
    while user is not None and user.op == "call_function" and kind_of(user) in rule.absorbs:
        fused.append(user)
        user = only_user(user)
    return fused


def float_operators(graph: fx.GraphModule, quantizer: PlacementQuantizer) -> Counter[str]:
    """Names of the operators on activations that the policy leaves in float, with how many of each."""
    rules = {node: quantizer.rule_of(node) for node in call_nodes(graph)}
    fused = {other for node, rule in rules.items() if rule for other in fused_activations(node, rule)}
    left = [node for node, rule in rules.items() if rule is None and node not in fused and _computes(node)]
    return Counter(_operator_name(node) for node in left)


def float_weights(graph: fx.GraphModule, quantizer: PlacementQuantizer) -> dict[str, float]:
    """Layers with weights (recurrent ones, say) that the policy leaves in float, and their share of all weights.

    Without those that the caller asked for, and those of less than a hundredth.
    """
    sizes: dict[fx.Node, int] = {}
    for node in graph.graph.find_nodes(op="get_attr"):
        value = constant(graph, node)
        sizes[node] = 0 if value is None else value.numel()
    rules = {node: quantizer.rule_of(node) for node in call_nodes(graph)}
    shares: dict[str, float] = {}
    for node, rule in rules.items():
        stored = sum(sizes.get(source, 0) for source in node.all_input_nodes)
        if rule is None and stored and _computes(node):
            name = layer_name(node)
            shares[name] = shares.get(name, 0.0) + stored / max(sum(sizes.values()), 1)
    return {name: share for name, share in shares.items() if share >= _WORTH_NAMING and not quantizer.keeps(name)}


_WORTH_NAMING = 0.01


def _computes(node: fx.Node) -> bool:
    """Tell whether it maps activations to activations; asking for a size or picking one of several results does not."""
    value = node.meta.get("val")
    several = isinstance(value, (tuple, list)) and any(isinstance(part, torch.Tensor) for part in value)
    return (
        bool(activations(node)) and node.target is not operator.getitem and (several or isinstance(value, torch.Tensor))
    )


def _operator_name(node: fx.Node) -> str:
    return str(getattr(node.target, "overloadpacket", node.target)).removeprefix("aten.")


def _first_edge(node: fx.Node, sources: list[fx.Node]) -> tuple[fx.Node, fx.Node]:
    """The edge whose scale a rearranging operator keeps; for a piece of a split, the edge into the split."""
    source = sources[0]
    return (activations(source)[0], source) if node.target is operator.getitem else (source, node)


def _residual(sources: list[fx.Node]) -> list[fx.Node]:
    """The skip branch of an addition: the input that is not the convolution which fuses with the addition.

    Where both just left a convolution, the first one fuses; where none did, nothing fuses and nothing is gained.
    """
    fused = [source for source in sources if kind_of(source) in WEIGHTED and only_user(source) is not None]
    return [source for source in sources if fused and source is not fused[0]]
