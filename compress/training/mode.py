"""Training and inference mode for any module, captured graphs (`torch.export`) included.

A captured graph refuses `train()`: BatchNorm and dropout are operators whose mode is an argument. The arguments are set
here, in place.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx, nn

from compress.core.errors import StageError

__all__ = ["batchnorm_nodes", "set_batchnorm_training", "set_training"]

_aten = torch.ops.aten
_BATCH_NORM = _aten.batch_norm.default
_BATCH_NORM_TRAINING = 5  # batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn)
_DROPOUT_TRAINING = 2  # dropout(input, p, train)
_DROPOUT = (_aten.dropout.default, _aten.feature_dropout.default, _aten.alpha_dropout.default)
_FIXED = (_aten._native_batch_norm_legit_no_training.default,)


def set_training(module: nn.Module, training: bool) -> None:
    """Put `module` and all its parts into training or inference mode.

    Raises:
        StageError: training, and the graph was captured with an operator that exists for inference only.
    """
    try:
        module.train(training)
    except NotImplementedError:  # torch.export's graphs; a class of the user's own may have a train() that matters
        for part in module.modules():
            part.training = training
    for graph in _graphs(module):
        if training:
            _refuse_fixed(graph)
        for node in graph.graph.nodes:
            if node.target in _DROPOUT and len(node.args) > _DROPOUT_TRAINING:
                node.update_arg(_DROPOUT_TRAINING, training)
        _set_graph_norms(graph, training)


def set_batchnorm_training(module: nn.Module, training: bool) -> None:
    """Let BatchNorm alone normalise by batch statistics and update the running ones (True), or freeze them (False)."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.train(training)
    for graph in _graphs(module):
        _set_graph_norms(graph, training)


def batchnorm_nodes(module: nn.Module) -> Iterator[tuple[fx.GraphModule, fx.Node]]:
    """The BatchNorm operators of captured graphs in `module`, each with its graph."""
    for graph in _graphs(module):
        for node in graph.graph.find_nodes(op="call_function", target=_BATCH_NORM):
            yield graph, node


def _set_graph_norms(graph: fx.GraphModule, training: bool) -> None:
    for node in graph.graph.find_nodes(op="call_function", target=_BATCH_NORM):
        node.update_arg(_BATCH_NORM_TRAINING, training)
    graph.recompile()


def _refuse_fixed(graph: fx.GraphModule) -> None:
    fixed = next((node for node in graph.graph.nodes if node.target in _FIXED), None)
    if fixed is not None:
        raise StageError(
            f"the captured graph cannot be trained: {fixed.name} normalises by fixed statistics",
            fix="give the model as Python code (model=factory) instead of an exported program",
        )


def _graphs(module: nn.Module) -> Iterator[fx.GraphModule]:
    return (part for part in module.modules() if isinstance(part, fx.GraphModule))
