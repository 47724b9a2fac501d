"""ONNX Runtime's integer kernels against the same file run operator by operator, form by form.

Weights are in 7 bits, which every CPU computes exactly. A form that is more than a step off needs a guard in
`policies/onnxruntime.yaml`; one that is guarded and right again no longer does.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.formats.onnx.runtime import open_session
from compress.graph.op_kind import OpKind
from compress.quantization.policy import load_policy
from compress.quantization.ptq import float_graph, guard_reasons
from compress.verify.fused import first_wrong_kernel


class Apply(nn.Module):
    def __init__(self, function, channels=8):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.second = nn.Conv2d(3, channels, 3, padding=1)
        self.function = function

    def forward(self, x):
        return self.function(self.first(x), self.second(x)).flatten(1)


def layer(module):
    torch.manual_seed(1)
    module = module.eval()
    return lambda a, _: module(a)


class Weighted(Apply):
    """As `Apply`, with a layer that is a part of the network."""

    def __init__(self, module):
        super().__init__(None)
        torch.manual_seed(1)
        self.module = module

    def forward(self, x):
        return self.module(self.first(x)).flatten(1)


POOLS = {
    "avg": nn.AvgPool2d(2),
    "avg pad counted": nn.AvgPool2d(3, 2, 1),
    "avg pad not counted": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "avg 3x2": nn.AvgPool2d((3, 2), (2, 1)),
    "avg ceil": nn.AvgPool2d(3, 2, ceil_mode=True),
    "avg ceil pad counted": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "avg ceil pad not counted": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "global avg": nn.AdaptiveAvgPool2d(1),
    "max": nn.MaxPool2d(2),
    "max pad": nn.MaxPool2d(3, 2, 1),
    "max ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max ceil pad": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "max dilation": nn.MaxPool2d(2, 1, dilation=2),
}
ACTIVATIONS = {
    "leaky relu": nn.LeakyReLU(0.1),
    "leaky relu steep": nn.LeakyReLU(0.9),
    "sigmoid": nn.Sigmoid(),
    "relu6": nn.ReLU6(),
    "nearest": nn.UpsamplingNearest2d(scale_factor=2),
    "bilinear": nn.UpsamplingBilinear2d(scale_factor=2),
    "pad": nn.ZeroPad2d((1, 2, 0, 1)),
}
PAIRS = {
    "add": lambda a, b: a + 3 * b,
    "add channel": lambda a, b: a + b.mean((2, 3), keepdim=True),
    "add row": lambda a, b: a + b[:, :1],
    "mul": lambda a, b: a * b,
    "mul gate": lambda a, b: a * b.mean((2, 3), keepdim=True).sigmoid(),
    "concat": lambda a, b: torch.cat([a, 9 * b], 1),
    "concat same": lambda a, b: torch.cat([a, a, b], 1),
    "concat height": lambda a, b: torch.cat([a, b.sigmoid()], 2),
    "matmul": lambda a, b: a @ b.transpose(2, 3),
    "softmax": lambda a, b: (a @ b.transpose(2, 3)).softmax(-1) @ a,
    "even softmax": lambda a, b: ((0.02 * a) @ (0.02 * b).transpose(2, 3)).softmax(-1) @ a,
}
LAYERS = {
    "groups": nn.Conv2d(8, 8, 3, groups=2),
    "depthwise": nn.Conv2d(8, 8, 3, padding=1, groups=8),
    "depthwise multiplier": nn.Conv2d(8, 16, 3, groups=8, bias=False),
    "dilation": nn.Conv2d(8, 8, 3, padding=2, dilation=2),
    "depthwise dilation": nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
    "stride": nn.Conv2d(8, 8, (3, 1), (2, 1), (1, 0)),
    "asymmetric": nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, 2)),
    "pointwise": nn.Conv2d(8, 32, 1),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(8 * 144, 5)),
    "linear relu": nn.Sequential(nn.Flatten(), nn.Linear(8 * 144, 9), nn.ReLU(), nn.Linear(9, 5, bias=False)),
}
FORMS = {
    **{name: Apply(layer(module)) for name, module in {**POOLS, **ACTIVATIONS}.items()},
    **{name: Apply(function) for name, function in PAIRS.items()},
    **{name: Weighted(module) for name, module in LAYERS.items()},
}
WRONG = {
    "avg ceil": "QLinearAveragePool",
    "avg ceil pad counted": "QLinearAveragePool",
    "even softmax": "QLinearSoftmax",
}
SHAPE = (3, 12, 12)  # the last window of 3 with stride 2 hangs over


def exported(kit, module, policy):
    from dataclasses import replace

    spec = InputSpec(SHAPE)
    torch.manual_seed(2)
    images = torch.randn(16, *SHAPE)
    recipe = replace(kit.recipe(reduce_range=True), policy=policy)
    return kit.export(kit.quantize(module.eval(), images, spec, recipe), spec), images.numpy()


def off(path, images):
    """Largest difference of any output, in steps of its range; and the kernel that is to blame."""
    expected, computed = (
        session.run(None, {session.get_inputs()[0].name: images})[0]
        for session in (open_session(path, threads=1, fused=fused) for fused in (False, True))
    )
    error = np.abs(expected - computed)
    worst = int(error.reshape(len(images), -1).max(axis=1).argmax())
    step = (max(expected.max(), 0) - min(expected.min(), 0)) / 255
    return error.max() / step, first_wrong_kernel(path.read_bytes(), images[worst : worst + 1])


@pytest.mark.parametrize(
    "name", [name if name in WRONG else pytest.param(name, marks=pytest.mark.slow) for name in FORMS]
)
def test_kernels_that_the_policy_uses_are_right(kit, name):
    path, images = exported(kit, FORMS[name], load_policy("onnxruntime"))
    steps, kernel = off(path, images)
    assert steps <= 1.5
    assert kernel is None


class Ends(Apply):
    def forward(self, x):
        return self.first(x).flatten(1).softmax(-1)


@pytest.mark.parametrize(("module", "guarded"), [(Ends(None), 0), (FORMS["softmax"], 1)], ids=["end", "attention"])
def test_what_ends_in_float_is_not_guarded(kit, module, guarded):
    reasons = guard_reasons(float_graph(module.eval(), InputSpec(SHAPE)), kit.recipe())
    assert len(reasons) == guarded
    assert all(reason.startswith("QLinearSoftmax is wrong (all versions; ") for reason in reasons.values())


def test_guards_go_by_the_devices_version_and_the_one_here():
    policy = load_policy("onnxruntime")
    pools = [guard for guard in policy.guards if guard.operator is OpKind.AVG_POOL]
    fixed = policy.model_copy(update={"guards": tuple(pools)})
    assert fixed.active_guards("1.31.1") == tuple(pools)
    old = fixed.model_copy(update={"runtime": "numpy"})  # installed, and newer than 1.32
    assert old.active_guards() == ()
    assert old.active_guards("1.31.1") == tuple(pools)  # the device has the kernel
    assert old.active_guards("1.32.0") == ()
    assert fixed.active_guards("1.40.0") == tuple(pools)  # the device has not, but files are judged here
    assert fixed.model_copy(update={"runtime": "not-installed"}).active_guards("1.32.0") == ()
    assert fixed.model_copy(update={"runtime": "not-installed"}).active_guards() == tuple(pools)


@pytest.mark.parametrize("name", WRONG)
def test_guards_are_still_needed(kit, name):
    unguarded = load_policy("onnxruntime").model_copy(update={"guards": ()})
    steps, kernel = off(*exported(kit, FORMS[name], unguarded))
    assert steps > 2
    assert kernel is not None
    assert kernel.startswith(f"{WRONG[name]} (node ")
