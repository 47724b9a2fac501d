"""Tiny networks with every kind of tie between channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.artifact import InputSpec

RGB = InputSpec((3, 16, 16))


def conv(inputs, outputs, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)


def layer(inputs, outputs, kernel=3, **options):
    return nn.Sequential(conv(inputs, outputs, kernel, **options), nn.BatchNorm2d(outputs), nn.ReLU())


class Classifier(nn.Module):
    """A body that gives `width` channels, and a linear layer on their mean."""

    def __init__(self, body, width):
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, 5)

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = layer(width, width), layer(width, width)

    def forward(self, x):
        return F.relu(x + self.second(self.first(x)))


class Concat(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.left, self.right = layer(width, width), layer(width, width, 1)

    def forward(self, x):
        return torch.cat([self.left(x), x, self.right(x)], 1)


class Excite(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 8, 1), nn.Conv2d(8, width, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Shuffle(nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class PaddedShortcut(nn.Module):
    """The CIFAR ResNets' shortcut, with its widths written as numbers."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.first, self.second = layer(inputs, outputs, stride=2), layer(outputs, outputs)
        self.pad = (outputs - inputs) // 2

    def forward(self, x):
        return self.second(self.first(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(layer(3, 16, stride=2), layer(16, 16, stride=2))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(256, 24), nn.ReLU(), nn.Linear(24, 5))

    def forward(self, x):
        return self.head(self.body(x))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        encoder = nn.TransformerEncoderLayer(32, 4, 64, 0.0, activation="gelu", batch_first=True, norm_first=True)
        self.norm, self.attention = encoder.norm1, encoder.self_attn
        self.norm2, self.up, self.down = encoder.norm2, encoder.linear1, encoder.linear2
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


def build(name):
    torch.manual_seed(0)
    made = {
        "plain": lambda: Classifier(nn.Sequential(layer(3, 16), layer(16, 32)), 32),
        "residual": lambda: Classifier(nn.Sequential(layer(3, 16), Residual(16), Residual(16)), 16),
        "concat": lambda: Classifier(nn.Sequential(layer(3, 16), Concat(16), layer(48, 24, 1)), 24),
        "depthwise": lambda: Classifier(nn.Sequential(layer(3, 16), layer(16, 16, groups=16), layer(16, 24, 1)), 24),
        "grouped": lambda: Classifier(
            nn.Sequential(layer(3, 16), layer(16, 32, 1), layer(32, 32, groups=4), layer(32, 16, 1)), 16
        ),
        "excite": lambda: Classifier(nn.Sequential(layer(3, 16), Excite(16), layer(16, 16)), 16),
        "transposed": lambda: Classifier(nn.Sequential(layer(3, 16), nn.ConvTranspose2d(16, 24, 2, 2), nn.ReLU()), 24),
        "shuffle": lambda: Classifier(nn.Sequential(layer(3, 16), Shuffle(), layer(16, 16), layer(16, 24)), 24),
        "padded": lambda: Classifier(nn.Sequential(layer(3, 16), PaddedShortcut(16, 32)), 32),
        "flat": Flat,
        "transformer": Transformer,
    }[name]()
    with torch.no_grad():
        for part in made.modules():
            if isinstance(part, nn.BatchNorm2d):  # fresh statistics would hide what they are for
                part.running_mean.uniform_(-0.2, 0.2)
                part.running_var.uniform_(0.5, 2)
                part.weight.uniform_(0.5, 1.5)
                part.bias.uniform_(-0.3, 0.3)
    return made.eval()


NAMES = (
    *("plain", "residual", "concat", "depthwise", "grouped", "excite"),
    *("transposed", "shuffle", "padded", "flat", "transformer"),
)
