"""Self-attention whose heads can be removed one by one, a stand-in for `nn.MultiheadAttention`.

PyTorch's module ties the number of heads to the width of the model (`embed_dim = num_heads * head_dim`), so no head can
leave it. Here the projections are ordinary linear layers of any number of heads (Michel et al. 2019, "Are Sixteen Heads
Really Better than One?").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from compress.core.artifact import InputSpec
from compress.models.watching import watch_one_image

__all__ = ["HeadAttention", "separate_heads"]


class HeadAttention(nn.Module):
    """Scaled dot-product attention over `[N, tokens, features]`, called as `nn.MultiheadAttention` is.

    Attributes:
        heads: number of heads.
        head_width: features of one head.
        query, key, value: `features -> heads * head_width`.
        out_proj: `heads * head_width -> features`.
    """

    def __init__(self, features: int, heads: int, head_width: int, *, bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = head_width
        self.dropout = dropout
        self.query = nn.Linear(features, heads * head_width, bias=bias)
        self.key = nn.Linear(features, heads * head_width, bias=bias)
        self.value = nn.Linear(features, heads * head_width, bias=bias)
        self.out_proj = nn.Linear(heads * head_width, features, bias=bias)

    @property
    def width(self) -> int:
        """Features of all heads together."""
        return self.heads * self.head_width

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, need_weights: bool = False
    ) -> tuple[torch.Tensor, None]:
        """`[N, tokens, features]` and None, as there are no averaged weights to return."""
        heads = (self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(value)))
        mixed = F.scaled_dot_product_attention(*heads, dropout_p=self.dropout if self.training else 0.0)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None

    def remove(self, heads: Sequence[int]) -> None:
        """Take these heads out, in place."""
        gone = set(heads)
        kept = [head for head in range(self.heads) if head not in gone]
        rows = torch.cat([torch.arange(h * self.head_width, (h + 1) * self.head_width) for h in kept])
        for projection in (self.query, self.key, self.value):
            _keep_outputs(projection, rows)
        self.out_proj.weight = nn.Parameter(self.out_proj.weight.detach()[:, rows].clone())
        self.out_proj.in_features = len(rows)
        self.heads = len(kept)

    @torch.no_grad()
    def silence(self, heads: Sequence[int]) -> None:
        """Let these heads give nothing, in place."""
        for head in heads:
            self.out_proj.weight[:, head * self.head_width : (head + 1) * self.head_width] = 0

    def importance(self, power: int) -> torch.Tensor:
        """`[heads]`: sum of |weight|^power over each head's part of the four projections."""
        inward = sum(p.weight.detach().abs().pow(power).sum(1) for p in (self.query, self.key, self.value))
        outward = self.out_proj.weight.detach().abs().pow(power).sum(0)
        return (inward + outward).view(self.heads, self.head_width).sum(1)

    def taylor(self) -> torch.Tensor:
        """`[heads]`: |sum of weight * gradient| over each head's output projection (Michel et al. 2019, eq. 2)."""
        weight = self.out_proj.weight
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        return (weight * gradient).detach().sum(0).view(self.heads, self.head_width).sum(1).abs()

    def _split(self, projected: torch.Tensor) -> torch.Tensor:
        """`[N, tokens, heads * width]` to `[N, heads, tokens, width]`."""
        split: torch.Tensor = projected.unflatten(2, (self.heads, self.head_width))
        return split.transpose(1, 2)


def separate_heads(module: nn.Module, input: InputSpec) -> list[str]:
    """Replace, in place, each plain `nn.MultiheadAttention` by a `HeadAttention` with its weights; their names.

    Plain means: batch first, equal widths, no mask, no extra bias row, and attention weights not asked for.
    """
    masked = _called_with_more(module, input)
    replaced = []
    for name, part in list(module.named_modules()):
        if not isinstance(part, nn.MultiheadAttention) or part in masked or not _plain(part):
            continue
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, _converted(part))
        replaced.append(name)
    return replaced


def _plain(part: nn.MultiheadAttention) -> bool:
    return part.batch_first and part._qkv_same_embed_dim and part.bias_k is None and not part.add_zero_attn


def _called_with_more(module: nn.Module, input: InputSpec) -> set[nn.Module]:
    """Attention layers that are called with a mask, or whose weights are asked for, or that do not run."""
    attention: set[nn.Module] = {part for part in module.modules() if isinstance(part, nn.MultiheadAttention)}
    plain: set[nn.Module] = set()

    def look(part: nn.Module, arguments: tuple[object, ...], named: dict[str, object], output: object) -> None:
        extra = {name: value for name, value in named.items() if name not in ("query", "key", "value")}
        if len(arguments) + sum(name in named for name in ("query", "key", "value")) == 3 and extra == {
            "need_weights": False
        }:
            plain.add(part)
        else:
            plain.discard(part)

    if attention:
        watch_one_image(module, input, attention, look)
    return attention - plain


@torch.no_grad()
def _converted(part: nn.MultiheadAttention) -> HeadAttention:
    attention = HeadAttention(
        part.embed_dim, part.num_heads, part.head_dim, bias=part.in_proj_bias is not None, dropout=part.dropout
    )
    projections = (attention.query, attention.key, attention.value)
    for projection, weight in zip(projections, part.in_proj_weight.chunk(3), strict=True):
        projection.weight.copy_(weight)
    attention.out_proj.weight.copy_(part.out_proj.weight)
    if part.in_proj_bias is not None:
        for projection, bias in zip(projections, part.in_proj_bias.chunk(3), strict=True):
            projection.bias.copy_(bias)
        attention.out_proj.bias.copy_(part.out_proj.bias)
    return attention.train(part.training)


def _keep_outputs(linear: nn.Linear, rows: torch.Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight.detach()[rows].clone())
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[rows].clone())
    linear.out_features = len(rows)
