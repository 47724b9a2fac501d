"""Which tensors count as weights, in modules and in captured graphs."""

from __future__ import annotations

import torch
from torch import nn

from compress.graph.weights import compute_weights, graph_tensors


def test_each_stored_weight_once_with_its_layer_name():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)
            self.second.weight = self.first.weight
            self.attention = nn.MultiheadAttention(4, 2)

    weights = compute_weights(Tied())
    assert [(w.layer, tuple(w.tensor.shape)) for w in weights] == [
        ("first", (4, 4)),
        ("attention", (12, 4)),
        ("attention.out_proj", (4, 4)),
    ]


def test_a_captured_functional_call_is_found_through_layout_operators():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.ones(2, 1, 3, 3))
            self.table = nn.Parameter(torch.eye(6))
            self.unused = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return nn.functional.conv2d(x, self.kernel).mean(dim=3) @ self.table.t().contiguous()

    captured = torch.export.export(Functional(), (torch.zeros(1, 1, 8, 8),)).module()
    assert [(w.name, w.zeros()) for w in compute_weights(captured)] == [("kernel", 0), ("table", 30)]
    assert set(graph_tensors(captured)) == {"kernel", "table"}


def test_a_weight_that_is_computed_is_not_taken_for_a_stored_one():
    class Sliced(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.eye(8))

        def forward(self, x):
            return torch.matmul(x, self.table[:6].sin())

    captured = torch.export.export(Sliced(), (torch.zeros(2, 6),)).module()
    assert compute_weights(captured) == ()


def test_quantized_weights_count_zeros_at_their_zero_point_per_channel():
    quantized = torch.ops.quantized_decomposed

    class Dequantized(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("values", torch.tensor([[1, 1, 0], [2, 0, 0]], dtype=torch.int8))
            self.register_buffer("scale", torch.tensor([0.5, 0.25]))
            self.register_buffer("zero", torch.tensor([1, 0]))

        def forward(self, x):
            weight = quantized.dequantize_per_channel.default(
                self.values, self.scale, self.zero, 0, -128, 127, torch.int8
            )
            return nn.functional.linear(x, weight)

    import torchao.quantization.pt2e  # noqa: F401  registers the quantized_decomposed operators

    captured = torch.export.export(Dequantized(), (torch.zeros(2, 3),)).module()
    (weight,) = compute_weights(captured)
    assert (weight.name, weight.zeros(), weight.tensor.dtype) == ("values", 4, torch.int8)
