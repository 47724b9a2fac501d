"""Small networks and what they are made of, for the table in `structures`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class Fn(nn.Module):
    """A function of the model and its input, so that a structure fits in a few lines."""

    def __init__(self, function: Callable[..., torch.Tensor], **parts: nn.Module | torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, **options: int) -> nn.Sequential:
    options.setdefault("padding", kernel // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, stride, bias=False, **options)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def head(channels: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def between(*parts: nn.Module, channels: int = 16, classes: int = 5) -> nn.Module:
    """A stem to `[16, 16, 16]`, the structure, and a classifier of what it gives."""
    return nn.Sequential(conv(3, 16, stride=2), *parts, head(channels, classes))


def function(made: Callable[[torch.Tensor], torch.Tensor], channels: int = 16) -> nn.Module:
    return between(Fn(lambda _, x: made(x)), channels=channels)


def residual(branch: nn.Module) -> nn.Module:
    return Fn(lambda self, x: x + self.branch(x), branch=branch)


def gated(squeeze: nn.Module, excite: nn.Module, gate: nn.Module) -> nn.Module:
    """Squeeze-and-excitation (Hu et al. 2018)."""
    return Fn(
        lambda self, x: x * self.gate(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))),
        squeeze=squeeze,
        excite=excite,
        gate=gate,
    )


def lenet() -> nn.Module:
    features = (nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(400, 60), nn.ReLU(), nn.Linear(60, 10))


def lenet_tanh() -> nn.Module:
    features = (nn.Conv2d(3, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2))
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(400, 60), nn.Tanh(), nn.Linear(60, 10))


def alexnet() -> nn.Module:
    features = (nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(16, 24, 3, 1, 1), nn.ReLU())
    classifier = (nn.Dropout(), nn.Linear(24 * 36, 40), nn.ReLU(), nn.Dropout(), nn.Linear(40, 10))
    return nn.Sequential(*features, nn.AvgPool2d(2, 1), nn.Flatten(), *classifier)


def vgg() -> nn.Module:
    blocks = [conv(3, 16), nn.MaxPool2d(2), conv(16, 24), nn.MaxPool2d(2), conv(24, 32), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(512, 48), nn.ReLU(), nn.Linear(48, 10))


def two_heads_of_one_map() -> nn.Module:
    return Fn(
        lambda self, x: torch.cat([self.a(f := self.f(x).flatten(1)), self.b(f)], 1),
        f=nn.Sequential(conv(3, 8, stride=2), conv(8, 8, stride=2)),
        a=nn.Linear(512, 4),
        b=nn.Linear(512, 4),
    )


def flat(view: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """Two convolutions to `[8, 8, 8]`, a view of them as a row, and a matrix."""
    return Fn(
        lambda self, x: self.l(view(self.f(x))),
        f=nn.Sequential(conv(3, 8, stride=2), conv(8, 8, stride=2)),
        l=nn.Linear(512, 10),
    )


def dense() -> nn.Module:
    """A block of DenseNet (Huang et al. 2017): everything so far, joined."""
    return Fn(
        lambda self, x: self.c(torch.cat([x, y := self.a(x), self.b(torch.cat([x, y], 1))], 1)),
        a=conv(16, 8),
        b=conv(24, 8),
        c=conv(32, 16, 1),
    )


def inception() -> nn.Module:
    return Fn(
        lambda self, x: torch.cat([self.a(x), self.b(x), self.c(x), self.d(F.max_pool2d(x, 3, 1, 1))], 1),
        a=conv(16, 4, 1),
        b=nn.Sequential(conv(16, 4, 1), conv(4, 4)),
        c=nn.Sequential(conv(16, 4, 1), conv(4, 4, 5)),
        d=conv(16, 4, 1),
    )


def sppf() -> nn.Module:
    def pooled(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        b = F.max_pool2d(a, 5, 1, 2)
        c = F.max_pool2d(b, 5, 1, 2)
        return self.b(torch.cat([a, b, c, F.max_pool2d(c, 5, 1, 2)], 1))

    return Fn(pooled, a=conv(16, 8, 1), b=conv(32, 16, 1))


def csp() -> nn.Module:
    """C2f of YOLOv8: split, one branch goes on, everything joined."""

    def split(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a, b = self.a(x).chunk(2, 1)
        return self.b(torch.cat([a, b, self.m(b)], 1))

    return Fn(split, a=conv(16, 16, 1), m=residual(conv(8, 8)), b=conv(24, 16, 1))


def shuffle_unit() -> nn.Module:
    """ShuffleNetV2 (Ma et al. 2018)."""

    def unit(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, 1)
        y = torch.cat([a, self.b(b)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    return Fn(unit, b=nn.Sequential(conv(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), conv(8, 8, 1)))


def option_a(stride: int = 2) -> nn.Module:
    """The parameter-free shortcut of CIFAR ResNets (He et al. 2015)."""
    return Fn(
        lambda self, x: F.relu(self.b(x) + F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 4, 4))),
        b=nn.Sequential(conv(16, 24, 3, stride), nn.Conv2d(24, 24, 3, padding=1)),
    )


def fpn(up: Callable[[torch.Tensor], torch.Tensor], *, joined: bool = True) -> nn.Module:
    def neck(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        b = up(self.b(a))
        return self.c(torch.cat([a, b], 1) if joined else a + b)

    return nn.Sequential(
        conv(3, 16, stride=2),
        Fn(neck, a=conv(16, 16, stride=2), b=conv(16, 16, stride=2), c=conv(32 if joined else 16, 16)),
        head(16),
    )


def decoder(*ups: nn.Module) -> nn.Module:
    """An encoder, transposed convolutions, and a mask of two classes as a row."""
    last = [up for up in ups if isinstance(up, nn.ConvTranspose2d)][-1]
    encoder = (conv(3, 16, stride=2), conv(16, 16, stride=2))
    return nn.Sequential(*encoder, *ups, nn.ReLU(), nn.Conv2d(last.out_channels, 2, 1), nn.Flatten())


def unet() -> nn.Module:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        b = self.b(a)
        return self.o(self.c(torch.cat([a, self.u(b)], 1))).flatten(1)

    parts = {"a": conv(3, 8), "b": conv(8, 16, stride=2), "u": nn.ConvTranspose2d(16, 8, 2, 2), "c": conv(16, 8)}
    return Fn(forward, **parts, o=nn.Conv2d(8, 2, 1))


def sequence(*parts: nn.Module, features: int = 16) -> nn.Module:
    """A map as a sequence of its rows `[16, 16]`, then what works on sequences."""
    return nn.Sequential(
        conv(3, 16, stride=2), Fn(lambda _, x: x.mean(2)), *parts, nn.Flatten(), nn.Linear(features, 5)
    )


def yolov5(*, decode: bool, anchors: int = 3, numbers: int = 8) -> nn.Module:
    """Anchors as an axis of their own: rank 5, then one row for each box."""

    def rows(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        f = self.f(x)
        z = []
        for index, (y, step) in enumerate(((self.h0(f), 8.0), (self.h1(self.g(f)), 16.0))):
            b, _, h, w = y.shape
            y = y.view(b, anchors, numbers, h, w).permute(0, 1, 3, 4, 2).contiguous()
            if decode:
                y = y.sigmoid()
                xy = (y[..., 0:2] * 2.0 + getattr(self, f"grid{index}")) * (step / 32.0)
                wh = (y[..., 2:4] * 2) ** 2 * getattr(self, f"anchor{index}")
                y = torch.cat((xy, wh, y[..., 4:]), -1)
            z.append(y.reshape(b, -1, numbers))
        return torch.cat(z, 1).flatten(1)

    buffers = {}
    for index, size in enumerate((8, 4)):
        rows_, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        buffers[f"grid{index}"] = torch.stack((columns, rows_), -1).view(1, 1, size, size, 2).float() - 0.5
        buffers[f"anchor{index}"] = torch.rand(1, anchors, 1, 1, 2) + 0.5
    return Fn(
        rows,
        f=nn.Sequential(conv(3, 16, stride=2), conv(16, 16, stride=2)),
        g=conv(16, 16, stride=2),
        h0=nn.Conv2d(16, anchors * numbers, 1),
        h1=nn.Conv2d(16, anchors * numbers, 1),
        **buffers,
    )


def yolov8(*, decode: bool, bins: int = 4, classes: int = 3) -> nn.Module:
    """Boxes as distributions (Li et al. 2020), joined with scores over two scales."""

    def rows(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        f = self.f(x)
        maps = (torch.cat((self.b0(f), self.c0(f)), 1), torch.cat((self.b1(g := self.g(f)), self.c1(g)), 1))
        y = torch.cat([m.flatten(2) for m in maps], 2)
        box, score = y.split((4 * bins, classes), 1)
        if decode:
            b, _, a = box.shape
            box = self.dfl(box.view(b, 4, bins, a).transpose(2, 1).softmax(1)).view(b, 4, a)
            low, high = box.chunk(2, 1)
            low, high = self.points - low, self.points + high
            box = torch.cat(((low + high) / 2, high - low), 1) * self.strides
        return torch.cat((box, score.sigmoid()), 1).flatten(1)

    dfl = nn.Conv2d(bins, 1, 1, bias=False)
    dfl.weight.data[:] = torch.arange(bins).float().view(1, bins, 1, 1)
    points, strides = [], []
    for size, step in ((8, 4.0), (4, 8.0)):
        rows_, columns = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
        points.append(torch.stack((columns, rows_)).view(2, -1))
        strides.append(torch.full((1, size * size), step))
    return Fn(
        rows,
        f=nn.Sequential(conv(3, 16, stride=2), conv(16, 16, stride=2)),
        g=conv(16, 16, stride=2),
        b0=nn.Conv2d(16, 4 * bins, 1),
        c0=nn.Conv2d(16, classes, 1),
        b1=nn.Conv2d(16, 4 * bins, 1),
        c1=nn.Conv2d(16, classes, 1),
        dfl=dfl,
        points=torch.cat(points, 1)[None],
        strides=torch.cat(strides, 1),
    )


def yolox() -> nn.Module:
    """Boxes, objectness and classes joined per scale, then over scales, one row for each box (Ge et al. 2021)."""

    def rows(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        f = self.f(x)
        maps = []
        for y, suffix in ((f, "0"), (self.g(f), "1")):
            box, seen, kind = (getattr(self, name + suffix)(y) for name in "bsk")
            maps.append(torch.cat([box, seen.sigmoid(), kind.sigmoid()], 1))
        return torch.cat([m.flatten(2) for m in maps], 2).permute(0, 2, 1).flatten(1)

    heads = {f"{name}{i}": nn.Conv2d(16, width, 1) for name, width in (("b", 4), ("s", 1), ("k", 3)) for i in range(2)}
    return Fn(rows, f=nn.Sequential(conv(3, 16, stride=2), conv(16, 16, stride=2)), g=conv(16, 16, stride=2), **heads)


def focus() -> nn.Module:
    """Every second row and column as channels (the first layer of YOLOX and early YOLOv5)."""

    def stacked(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        parts = [x[..., i::2, j::2] for j in range(2) for i in range(2)]
        return self.c(torch.cat(parts, 1))

    return nn.Sequential(Fn(stacked, c=conv(12, 16)), head(16))


def normalized_inside() -> nn.Module:
    mean, deviation = torch.tensor([0.48, 0.45, 0.4]).view(1, 3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(1, 3, 1, 1)
    return Fn(lambda self, x: self.n((x - self.m) / self.s), n=between(conv(16, 16)), m=mean, s=deviation)


def attention() -> nn.Module:
    """Channel attention by one convolution over channels (Wang et al. 2020)."""

    def weighted(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = self.c(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
        return x * y.unsqueeze(-1).unsqueeze(-1)

    return between(Fn(weighted, c=nn.Conv1d(1, 1, 3, padding=1)))


def spatial_attention() -> nn.Module:
    """Where, from the mean over channels (Woo et al. 2018)."""
    return between(Fn(lambda self, x: x * self.c(x.mean(1, keepdim=True)).sigmoid(), c=nn.Conv2d(1, 1, 7, padding=3)))


def inception_of_two() -> nn.Module:
    """Two kernels side by side, joined (SqueezeNet's expansion)."""
    return Fn(lambda self, x: torch.cat([self.a(x), self.b(x)], 1), a=conv(4, 8, 1), b=conv(4, 8))


def permuted_rows(numbers: int) -> nn.Module:
    """One row for each box, as SSD's heads give them."""
    return Fn(lambda _, x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, numbers).flatten(1))
