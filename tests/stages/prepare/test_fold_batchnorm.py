"""The folding stage: same outputs, an ordinary module, and a log of what stayed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from doubles import Log, stage_context
from torch import fx, nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal
from compress.graph.capture import capture
from compress.stages.prepare.fold_batchnorm import FoldBatchnorm

SPEC = InputSpec((3, 8, 8))


def fold(module):
    log = Log()
    context = stage_context("fold_batchnorm", log=log)
    return FoldBatchnorm().run(Artifact(Format.TORCH, module, Precision.FP32, SPEC), context), log.lines


def network():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    module[1].running_mean.normal_()
    module[1].running_var.uniform_(0.5, 2)
    return module.eval()


def test_an_ordinary_module_stays_one_and_the_input_is_untouched():
    module, x = network(), torch.randn(2, *SPEC.shape)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    artifact, lines = fold(module)
    assert type(artifact.module) is nn.Sequential
    assert [type(part).__name__ for part in artifact.module] == ["Conv2d", "Identity", "ReLU", "BatchNorm2d"]
    torch.testing.assert_close(artifact.module(x), module(x), rtol=1e-5, atol=1e-6)
    assert lines == ["fold_batchnorm: folded 1 batch normalisation(s)"]
    assert (artifact.history, artifact.precision) == (("fold_batchnorm",), Precision.FP32)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_captured_graph_is_folded_on_the_graph():
    graph, x = capture(network(), SPEC), torch.randn(2, *SPEC.shape)
    nodes = len(graph.graph.nodes)
    folded = fold(graph)[0].module
    assert isinstance(folded, fx.GraphModule)
    torch.testing.assert_close(folded(x), graph(x), rtol=1e-5, atol=1e-6)
    assert len(graph.graph.nodes) == nodes
    assert sum("batch_norm" in str(node.target) for node in folded.graph.nodes) == 1


def test_weights_that_were_rounded_already_are_refused():
    with pytest.raises(Refusal, match=r"stage 'fold' folds fp32 weights, but its input is already int8"):
        FoldBatchnorm().requires(SimpleNamespace(), Precision.INT8, "fold")


def test_computed_weights_are_stored_so_that_zeros_last():
    torch.manual_seed(0)
    first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    module = nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    artifact, lines = fold(module)
    x = torch.randn(3, *SPEC.shape)
    torch.testing.assert_close(artifact.module(x), module(x), rtol=1e-5, atol=1e-6)
    assert lines == [
        "fold_batchnorm: the weight of 0.conv2d is computed from parameters: stored as it is now",
        "fold_batchnorm: folded 1 batch normalisation(s)",
    ]
    weight = artifact.module.get_submodule("0").weight
    with torch.no_grad():
        weight[0] = 0
    assert artifact.module.get_submodule("0")(x)[:, 0].unique().numel() == 1  # the bias alone
