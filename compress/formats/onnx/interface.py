"""Interface that a file shows to the outside: one input `input`, one output `logits`, its batch size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from compress.core.errors import StageError

if TYPE_CHECKING:
    from compress.core.artifact import InputSpec

__all__ = ["BATCH", "INPUT_NAME", "OUTPUT_NAME", "forget_inner_shapes", "set_interface"]

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
BATCH = "batch"
"""Name of the free dimension (`dim_param`) of a file that takes any batch size."""


def set_interface(model: ir.Model, spec: InputSpec, *, dynamic_batch: bool) -> None:
    """Name the only input and output, and set input shape `[batch | 1, C, H, W]`, in place.

    Raises:
        StageError: several inputs or outputs, another image shape than `spec`, or a fixed batch where a free one is
            asked for (shapes inside the graph then hold that batch).
    """
    image = _only(model.graph.inputs, "input")
    logits = _only(model.graph.outputs, "output")
    _check_image(image, spec)
    if dynamic_batch and _fixed_batch(image) is not None:
        raise StageError(
            f"the model's batch size is fixed at {_fixed_batch(image)}", fix="dynamic_batch=false, or give a free batch"
        )
    if not dynamic_batch and _fixed_batch(image) not in (None, 1):
        raise StageError(
            f"the model's batch size is fixed at {_fixed_batch(image)}, allowed: 1 or free",
            fix="export the source model with batch 1 or a free batch",
        )
    batch: int | str = BATCH if dynamic_batch else 1
    _rename(model, image, INPUT_NAME)
    _rename(model, logits, OUTPUT_NAME)
    image.shape = ir.Shape([batch, *spec.shape])
    classes = list(logits.shape)[1:] if logits.shape is not None else []
    logits.shape = ir.Shape([batch, *classes]) if classes else None


def forget_inner_shapes(model: ir.Model) -> None:
    """Drop the recorded shapes of intermediate values, which may name another batch; shape inference refills them."""
    outputs = set(model.graph.outputs)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value not in outputs:
                value.shape = None


def _only(values: Sequence[ir.Value], kind: str) -> ir.Value:
    if len(values) != 1:
        names = ", ".join(str(value.name) for value in values)
        raise StageError(f"the model has {len(values)} {kind}s ({names}), allowed: exactly one", fix=f"keep one {kind}")
    return values[0]


def _check_image(image: ir.Value, spec: InputSpec) -> None:
    if image.shape is None:
        return
    sizes = image.shape.dims
    fits = len(sizes) == 4 and all(
        not isinstance(size, int) or size == expected for size, expected in zip(sizes[1:], spec.shape, strict=True)
    )
    if not fits:
        raise StageError(
            f"the model's input has shape {image.shape}, the configuration says (batch, *{spec.shape})",
            fix="set model.input.shape to (channels, height, width) of the model",
        )


def _fixed_batch(image: ir.Value) -> int | None:
    size = image.shape[0] if image.shape is not None else None
    return size if isinstance(size, int) else None


def _rename(model: ir.Model, value: ir.Value, name: str) -> None:
    values = {other.name: other for node in model.graph.all_nodes() for other in node.outputs}
    values.update(dict(model.graph.initializers))
    clash = values.get(name)
    if clash is not None and clash is not value:
        clash.name = f"{name}_inner"
    value.name = name
