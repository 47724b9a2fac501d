"""Strides, dilations and paddings of the windowed operators, in any number of dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx

from compress.formats.onnx.importer.builder import Builder, Operation

__all__ = ["Window", "layer_padding", "padded", "window_of"]

_Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """Moves of a kernel over an operand `[N, C, *sizes]`; one number for each of the `sizes`.

    Attributes:
        before: padding at the low ends; None where it depends on the size of the operand (`same`).
        same: `SAME_UPPER` or `SAME_LOWER`, else empty.
    """

    kernel: _Numbers
    stride: _Numbers
    dilation: _Numbers
    before: _Numbers
    after: _Numbers
    same: str

    @property
    def reach(self) -> _Numbers:
        """Number of elements that the kernel spans."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilation, strict=True))


def window_of(operation: Operation, kernel: _Numbers) -> Window:
    """The window of a node with this kernel.

    Raises:
        ModelError: attributes of another length than the kernel, or an unknown `auto_pad`.
    """
    operation.ignore("kernel_shape")  # of a convolution: its weight says the same
    dimensions = len(kernel)
    ones, zeros = (1,) * dimensions, (0,) * (2 * dimensions)
    stride, dilation = operation.ints("strides") or ones, operation.ints("dilations") or ones
    pads, automatic = operation.ints("pads") or zeros, operation.get("auto_pad", "NOTSET")
    if automatic not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise operation.unsupported(f"with auto_pad {automatic}")
    if not 1 <= dimensions <= 3 or (len(stride), len(dilation), len(pads)) != (dimensions, dimensions, len(zeros)):
        raise operation.unsupported(f"over {dimensions} dimensions with strides {stride} and pads {pads}")
    if automatic != "NOTSET":
        pads = zeros
    same = automatic if automatic.startswith("SAME") else ""
    return Window(kernel, stride, dilation, pads[:dimensions], pads[dimensions:], same)


def layer_padding(window: Window) -> _Numbers | None:
    """Return the padding a layer can do itself: the same at both ends, and not more than half of the kernel."""
    halves = all(pad * 2 <= size for pad, size in zip(window.before, window.kernel, strict=True))
    return window.before if not window.same and window.before == window.after and halves else None


def padded(builder: Builder, operation: Operation, window: Window, fill: float) -> fx.Node | torch.Tensor:
    """The first operand with the window's padding around it."""
    data = operation.data()
    if window.same:
        upper = window.same == "SAME_UPPER"
        return builder.call(_pad_same, data, window.reach, window.stride, upper, fill)
    order = tuple(pad for pair in zip(reversed(window.before), reversed(window.after), strict=True) for pad in pair)
    return builder.call(F.pad, data, order, "constant", fill) if any(order) else data


def _pad_same(data: torch.Tensor, reach: _Numbers, stride: _Numbers, upper: bool, fill: float) -> torch.Tensor:
    """Pad so that the output has `ceil(size / stride)` elements; an odd one goes to the `upper` end, or the lower."""
    pads: list[int] = []
    for axis in reversed(range(len(reach))):  # F.pad starts at the last dimension
        size = data.shape[2 + axis]
        total = max((-(-size // stride[axis]) - 1) * stride[axis] + reach[axis] - size, 0)
        small, large = total // 2, total - total // 2
        pads += [small, large] if upper else [large, small]
    return F.pad(data, pads, "constant", fill)
