"""Options that every stage that makes static INT8 shares, with what it refuses and how it reads the model.

Free of torch at import, so that a configuration can be checked without loading it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import field_validator

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import ModelError, Refusal, nearest
from compress.core.stage import Context, Stage, maker_of
from compress.core.target import Target
from compress.formats.registry import open_file
from compress.quantization.observers import observer_names
from compress.quantization.policy import Policy, load_policy, policy_names

if TYPE_CHECKING:
    from torch import fx, nn

    from compress.quantization.placement import Recipe

__all__ = ["StaticOptions", "float_module", "log_float_layers", "single_image_reason"]


class StaticOptions(Stage):
    """Base of the stages whose output is a captured graph with explicit Q/DQ and integer weights.

    Attributes:
        observer: how activation ranges are found, a file in `compress/quantization/observers`.
        per_channel: one weight scale per output channel instead of one per layer.
        placement: a policy of `compress/quantization/policies`; None takes the target's.
        reduce_range: weights in 7 bits; None takes the target's.
    """

    accepts: ClassVar[frozenset[Format]] = frozenset({Format.TORCH, Format.ONNX})
    produces: ClassVar[Format] = Format.TORCH

    observer: str = "histogram"
    per_channel: bool = True
    placement: str | None = None
    reduce_range: bool | None = None

    @field_validator("observer")
    @classmethod
    def _observer_exists(cls, value: str) -> str:
        if value not in observer_names():
            raise ValueError(f"unknown observer {value!r}: {nearest(value, observer_names())}")
        return value

    @field_validator("placement")
    @classmethod
    def _placement_exists(cls, value: str | None) -> str | None:
        if value is not None and value not in policy_names():
            raise ValueError(f"unknown placement {value!r}: {nearest(value, policy_names())}")
        return value

    def precision_from(self, precision: Precision) -> Precision:
        return Precision.INT8

    def requires(self, target: Target, precision: Precision, name: str) -> None:
        """Refuse a target without INT8 compute or without a known placement, and an input that is not FP32."""
        target.require_precision(Precision.INT8, stage=name)
        if precision is not Precision.FP32:
            raise Refusal(
                f"stage {name!r} quantizes fp32 models, but its input is already {precision}",
                fix=f"~stage.{name} or ~stage.{maker_of(precision)}",
            )
        self._placement_for(target, name)

    def recipe(self, context: Context) -> Recipe:
        """Recipe for the context's target with these options."""
        from compress.quantization.observers import load_observer
        from compress.quantization.placement import Recipe

        scheme = context.target.int8
        reduce_range = self.reduce_range
        if reduce_range is None:
            reduce_range = scheme is not None and scheme.reduce_range
        policy = load_policy(self._placement_for(context.target, context.name))
        return Recipe(
            policy=policy,
            runtime_version=context.target.pinned(policy.runtime),
            activation_observer=load_observer(self.observer),
            per_channel=self.per_channel,
            reduce_range=reduce_range,
        )

    def policy(self, target: Target, name: str) -> Policy:
        """The placement policy for `target`; `name` is the stage's, for the refusal where there is none."""
        return load_policy(self._placement_for(target, name))

    def float_graph(self, artifact: Artifact, context: Context) -> fx.GraphModule:
        """Graph to be quantized: the artifact captured, folded and rewritten, and held against the artifact itself.

        Raises:
            ModelError: the artifact cannot be imported or captured.
            ParityError: the graph does not compute what the artifact does; names the first layer that differs.
        """
        from compress.quantization.ptq import float_graph
        from compress.verify.form import require_equal_graph

        graph = float_graph(float_module(artifact), artifact.input, self.policy(context.target, context.name))
        require_equal_graph(artifact, graph, context.splits.calibration)
        return graph

    def _placement_for(self, target: Target, name: str) -> str:
        placement = self.placement or (target.int8.placement if target.int8 else None)
        if placement is None:
            raise Refusal(
                f"stage {name!r}: {target.title} does not say how its runtime wants INT8 expressed",
                fix=f"stage.{name}.placement=<{'|'.join(policy_names())}>",
            )
        return placement


def float_module(artifact: Artifact) -> nn.Module:
    """The artifact's module; an ONNX file is imported.

    Raises:
        Refusal: it is not float32, because the model that the user brings is quantized or in half precision already.
    """
    if artifact.precision is not Precision.FP32:
        raise Refusal(
            f"the model is {artifact.precision} already; what quantizes or rounds it needs the float32 model",
            fix="give the float32 model, or leave that stage out (~stage.<name>): the file's own scales are kept then",
        )
    return open_file(artifact).as_module()


def single_image_reason(graph: fx.GraphModule, artifact: Artifact) -> str | None:
    """Say why `graph`, made of `artifact`, is run image by image; None where it takes batches.

    Batches are used where they were seen to give what their images give alone. A module was looked at when it was
    loaded; the import of a file that is fixed to a batch of one is looked at here.
    """
    from compress.graph.capture import static_batch_reason
    from compress.graph.probe import probe_module

    captured = static_batch_reason(graph)
    if captured is not None or artifact.dynamic_batch:
        return captured
    differs = "batches of the model do not give what their images give alone"
    if artifact.format is Format.TORCH:
        return differs
    try:
        return None if probe_module(graph, artifact.input) else differs
    except ModelError as error:
        return error.problem


def log_float_layers(graph: fx.GraphModule, recipe: Recipe, context: Context) -> dict[str, str]:
    """One line naming the operators of a `float_graph` that stay in float, if there are any, one for the layers among
    them that have weights, and one for each that does because the runtime's kernel is wrong; the last two also come
    back, as the artifact's notes."""
    from compress.quantization.ptq import guard_reasons, layers_in_float, weights_in_float

    in_float = layers_in_float(graph, recipe)
    if in_float:
        names = ", ".join(f"{count} x {name}" for name, count in in_float.most_common())
        context.progress.log(f"{context.name}: left in float: {names}")
    notes = {}
    shares = weights_in_float(graph, recipe)
    if shares:
        layers = ", ".join(f"{layer} ({share:.0%} of all weights)" for layer, share in shares.items())
        notes["weights in float"] = f"{layers}: {recipe.policy.runtime} has no integer kernel for them"
        context.progress.log(f"{context.name}: weights in float: {notes['weights in float']}")
    guarded: dict[str, list[str]] = {}
    for layer, reason in guard_reasons(graph, recipe).items():
        guarded.setdefault(reason, []).append(layer)
    lines = [f"{', '.join(layers)} in float: {recipe.policy.runtime}'s {reason}" for reason, layers in guarded.items()]
    for line in lines:
        context.progress.log(f"{context.name}: {line}")
    return {**notes, **({"placed around": "; ".join(lines)} if lines else {})}
