"""Learnt values of a module and the zeros among them, whatever type they are stored in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.core.measurement import Sparsity
from compress.formats.sparsity import total_sparsity

if TYPE_CHECKING:
    from torch import nn

__all__ = ["module_parameters", "module_sparsity"]


def module_parameters(module: nn.Module) -> int:
    """Parameters, each once, plus integer weights, which quantized graphs keep as buffers."""
    from torch import nn
    from torch.fx import GraphModule

    from compress.graph.weights import compute_weights, graph_tensors, named_tensors

    named = graph_tensors(module) if isinstance(module, GraphModule) else named_tensors(module)
    learnt = {id(tensor): tensor.numel() for tensor in named.values() if isinstance(tensor, nn.Parameter)}
    learnt |= {id(weight.tensor): weight.tensor.numel() for weight in compute_weights(module)}
    return sum(learnt.values())


def module_sparsity(module: nn.Module) -> Sparsity:
    """Zeros of a live module; integer weights behind dequantize nodes are zero where they equal their zero point."""
    from compress.graph.weights import compute_weights

    return total_sparsity((weight.layer, weight.zeros(), weight.tensor.numel()) for weight in compute_weights(module))
