"""The sizes of every layer that multiplies, read off one forward pass: what a cost function is computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.models.watching import watch_one_image
from compress.pruning.attention import HeadAttention

__all__ = ["Cut", "LayerShape", "layer_shapes"]


@dataclass(frozen=True)
class LayerShape:
    """One convolution, linear layer or attention product, for one sample.

    Attributes:
        name: module path of the layer.
        inputs, outputs: channels (features).
        groups: of a grouped convolution; equal to `inputs` in a depthwise one.
        kernel: number of kernel elements, 1 for linear layers.
        read, written: positions (pixels, tokens) of the input and of the output.
        transposed: whether each input position spreads over the kernel, instead of each output position gathering.
        stored: whether it has weights; the products inside attention have none.
    """

    name: str
    inputs: int
    outputs: int
    groups: int = 1
    kernel: int = 1
    read: int = 1
    written: int = 1
    transposed: bool = False
    stored: bool = True

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return (self.read if self.transposed else self.written) * self._products

    @property
    def parameters(self) -> int:
        """Weights, biases excluded."""
        return self._products if self.stored else 0

    @property
    def elements(self) -> int:
        """Activations read and written."""
        return self.inputs * self.read + self.outputs * self.written

    @property
    def _products(self) -> int:
        return self.outputs * self.inputs * self.kernel // self.groups


@dataclass(frozen=True)
class Cut:
    """Channels and groups that a layer loses."""

    inputs: int = 0
    outputs: int = 0
    groups: int = 0

    def times(self, count: int) -> Cut:
        return Cut(self.inputs * count, self.outputs * count, self.groups * count)

    def applied(self, shape: LayerShape) -> LayerShape:
        """The shape of the layer without those channels."""
        return replace(
            shape,
            inputs=shape.inputs - self.inputs,
            outputs=shape.outputs - self.outputs,
            groups=shape.groups - self.groups,
        )


def layer_shapes(module: nn.Module, input: InputSpec) -> dict[str, LayerShape]:
    """Shapes of the layers that run, by name, in the order in which they run; a layer that runs twice counts twice."""
    shapes: dict[str, LayerShape] = {}
    names = {part: name for name, part in module.named_modules()}

    def record(part: nn.Module, arguments: tuple[object, ...], named: object, output: object) -> None:
        images = arguments[0]
        result = output[0] if isinstance(output, tuple) else output
        if isinstance(images, torch.Tensor) and isinstance(result, torch.Tensor):
            for shape in _shapes_of(names[part], part, images, result):
                shapes[shape.name] = _added(shapes.get(shape.name), shape)

    kinds = (nn.modules.conv._ConvNd, nn.Linear, HeadAttention)
    watch_one_image(module, input, [part for part in module.modules() if isinstance(part, kinds)], record)
    return shapes


def _shapes_of(name: str, part: nn.Module, images: torch.Tensor, output: torch.Tensor) -> list[LayerShape]:
    if isinstance(part, nn.Linear):
        tokens = output.numel() // part.out_features
        return [LayerShape(name, part.in_features, part.out_features, read=tokens, written=tokens)]
    if isinstance(part, HeadAttention):  # scores = q k^T and their product with v; the projections are linear layers
        tokens = images.shape[1]
        return [LayerShape(f"{name}.scores", 2 * part.width, tokens, read=tokens, written=tokens, stored=False)]
    assert isinstance(part, nn.modules.conv._ConvNd)
    return [
        LayerShape(
            name,
            part.in_channels,
            part.out_channels,
            groups=part.groups,
            kernel=math.prod(part.kernel_size),
            read=images[0, 0].numel(),
            written=output[0, 0].numel(),
            transposed=part.transposed,
        )
    ]


def _added(before: LayerShape | None, now: LayerShape) -> LayerShape:
    if before is None:
        return now
    return replace(now, read=before.read + now.read, written=before.written + now.written)
