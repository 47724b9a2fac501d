"""Second moments of what flows into each layer: gathered for all layers in one pass, in bounded memory, however many
samples pass. A convolution is a linear layer on its patches (im2col)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import fx

from compress.graph.capture import call_nodes, constant, layer_name, only_user, parameter_name
from compress.graph.operators import WEIGHTED, kind_of
from compress.quantization.simulation import cut
from compress.quantization.tensor_quantizer import TensorQuantizer

__all__ = ["Layer", "Moments", "find_layers", "gather_moments"]

aten = torch.ops.aten
_CONV = (aten.conv2d.default, aten.conv2d.padding)
_AT_ONCE = 8
"""Images whose layer inputs, those of all layers, are in memory together."""


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer with a quantized weight. Below, G are its groups, O outputs of each, K inputs.

    Attributes:
        name: of its weight.
        node: its call in the prepared graph.
        quantizer: of the weight.
        weight: the float values, `[out, in / G, kH, kW]` or `[out, in]`.
        groups: G.
    """

    name: str
    node: fx.Node
    quantizer: TensorQuantizer
    weight: torch.Tensor
    groups: int

    @property
    def matrix(self) -> torch.Tensor:
        """The weight as `[G, O, K]`."""
        matrix: torch.Tensor = self.weight.flatten(1).unflatten(0, (self.groups, -1))
        return matrix

    @property
    def moments_bytes(self) -> int:
        """Memory of this layer's `Moments`."""
        return 4 * self.groups * self.matrix.shape[-1] ** 2


@dataclass(frozen=True)
class Moments:
    """Sum over the samples (patches) seen, added to in place.

    Attributes:
        product: `X X'` `[G, K, K]` of the inputs X `[G, K, n]`.
        samples: n, one number.
    """

    product: torch.Tensor
    samples: torch.Tensor

    @classmethod
    def none(cls, layer: Layer) -> Moments:
        """Moments of no samples yet."""
        groups, _, size = layer.matrix.shape
        new = layer.matrix.new_zeros
        return cls(new(groups, size, size), new((), dtype=torch.int64))

    def add(self, inputs: torch.Tensor) -> None:
        """Take in X `[G, K, n]`."""
        self.product.baddbmm_(inputs, inputs.mT)
        self.samples.add_(inputs.shape[-1])


def find_layers(prepared: fx.GraphModule) -> tuple[list[Layer], list[str]]:
    """Layers in execution order, and a line for each layer with a quantized weight that is not among them."""
    layers, skipped = [], []
    for node in call_nodes(prepared):
        weight = node.args[1] if kind_of(node) in WEIGHTED else None
        if not isinstance(weight, fx.Node) or weight.op != "call_module":
            continue
        reason = _obstacle(prepared, node, weight)
        if reason:
            skipped.append(f"{layer_name(node)} keeps nearest rounding: {reason}")
        else:
            layers.append(_layer(prepared, node, weight))
    return layers, skipped


def gather_moments(
    prepared: fx.GraphModule,
    layers: Sequence[Layer],
    batches: Iterable[torch.Tensor],
    *,
    patches: int,
    generator: torch.Generator,
) -> list[Moments]:
    """Moments of each layer's inputs over all batches `[N, C, H, W]`.

    Args:
        patches: at most so many positions of each image, drawn by `generator`, stand for all.
    """
    inputs = cut(prepared, [cast(fx.Node, layer.node.args[0]) for layer in layers])
    moments = [Moments.none(layer) for layer in layers]
    with torch.no_grad():
        for images in (part for batch in batches for part in batch.split(_AT_ONCE)):
            for layer, sums, values in zip(layers, moments, inputs(images), strict=True):
                sums.add(_columns(layer, values, patches, generator))
    return moments


def _obstacle(prepared: fx.GraphModule, node: fx.Node, weight: fx.Node) -> str | None:
    if node.target not in (*_CONV, aten.linear.default):
        return f"{node.target} is no linear function of patches that is known here"
    source = weight.args[0]
    readers = list(prepared.graph.find_nodes(op="get_attr", target=str(parameter_name(source))))
    if len(readers) != 1 or only_user(readers[0]) is None or only_user(weight) is None:
        return "its weight is used more than once"
    return None


def _layer(prepared: fx.GraphModule, node: fx.Node, weight: fx.Node) -> Layer:
    quantizer, values = prepared.get_submodule(str(weight.target)), constant(prepared, weight.args[0])
    assert isinstance(quantizer, TensorQuantizer)
    assert values is not None
    groups = int(str(_argument(node, 6, 1))) if node.target in _CONV else 1
    return Layer(str(parameter_name(weight.args[0])), node, quantizer, values, groups)


def _columns(layer: Layer, values: torch.Tensor, patches: int, generator: torch.Generator) -> torch.Tensor:
    """Inputs `[G, K, n]` of a layer, of a batch."""
    if layer.node.target is aten.linear.default:
        rows = values.reshape(-1, values.shape[-1])
        return rows[_draw(len(rows), patches * len(values), generator)].T[None]
    columns = torch.cat([_patches(layer, image, patches, generator) for image in values], dim=-1)
    grouped: torch.Tensor = columns.unflatten(0, (layer.groups, -1))
    return grouped


def _patches(layer: Layer, image: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Patches `[in kH kW, n]` of one image `[in, H, W]`; only those that are drawn are copied."""
    kernel = layer.weight.shape[-2:]
    stride, dilation = (_pair(_argument(layer.node, index, 1)) for index in (3, 5))
    padded = F.pad(image, _padding(_argument(layer.node, 4, 0), kernel, dilation))
    windows = _windows(padded, kernel, stride, dilation)  # [in, outH, outW, kH, kW]
    high, wide = windows.shape[1:3]
    drawn = _draw(high * wide, most, generator)
    windows = windows.flatten(1, 2) if isinstance(drawn, slice) else windows[:, drawn // wide, drawn % wide]
    columns: torch.Tensor = windows.permute(0, 2, 3, 1).flatten(0, 2)
    return columns


def _windows(
    image: torch.Tensor, kernel: Sequence[int], stride: tuple[int, int], dilation: tuple[int, int]
) -> torch.Tensor:
    """A view `[C, outH, outW, kH, kW]` of an image `[C, H, W]`: what the kernel sees at each of its places."""
    image = image.contiguous()
    area = [step * (size - 1) + 1 for step, size in zip(dilation, kernel, strict=True)]
    positions = [(size - extent) // step + 1 for size, extent, step in zip(image.shape[1:], area, stride, strict=True)]
    channel, row, column = image.stride()
    strides = (channel, row * stride[0], column * stride[1], row * dilation[0], column * dilation[1])
    return image.as_strided((len(image), *positions, *kernel), strides)


def _draw(size: int, most: int, generator: torch.Generator) -> torch.Tensor | slice:
    return slice(None) if size <= most else torch.randperm(size, generator=generator)[:most]


def _padding(value: object, kernel: Sequence[int], dilation: tuple[int, int]) -> list[int]:
    """Padding as `F.pad` takes it: left, right, top, bottom."""
    if value == "same":
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        high, wide = ((total // 2, total - total // 2) for total in totals)
        return [*wide, *high]
    high_by, wide_by = _pair(0 if value == "valid" else value)
    return [wide_by, wide_by, high_by, high_by]


def _argument(node: fx.Node, index: int, default: object) -> object:
    return node.args[index] if len(node.args) > index else default


def _pair(value: object) -> tuple[int, int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return int(str(values[0])), int(str(values[-1]))
