"""Policy files: all valid, and errors that say where."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from compress.core.errors import ConfigError
from compress.graph.op_kind import OpKind
from compress.quantization.policy import NumberFormat, OpRule, Policy, load_policy, policy_names


def test_the_policies_that_ship():
    assert policy_names() == ("edgetpu", "litert", "onnxruntime", "tensorrt", "torch")


@pytest.mark.parametrize("name", policy_names())
def test_every_policy_loads_with_symmetric_weights(name):
    policy = load_policy(name)
    assert policy.weight.bounds == (-127, 127)
    assert policy.rule(OpKind.CONV).inputs == "all"


def test_schemes_that_the_runtimes_need():
    assert load_policy("onnxruntime").activation == NumberFormat(dtype="uint8", symmetric=False)
    assert load_policy("tensorrt").activation == NumberFormat(dtype="int8", symmetric=True)
    assert load_policy("tensorrt").rule(OpKind.CONV).output == "none"
    assert load_policy("litert").rule(OpKind.SOFTMAX).fixed.scale == 1 / 256
    assert load_policy("litert").rule(OpKind.OTHER).output == "own"
    assert load_policy("onnxruntime").rule(OpKind.HARDSWISH) is None


def test_a_misspelt_policy_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown placement policy 'onnx_runtime'.*did you mean 'onnxruntime'"):
        load_policy("onnx_runtime")


def test_contradictions_are_refused():
    with pytest.raises(ValidationError, match="go together"):
        OpRule(output="fixed")
    asymmetric = load_policy("torch").model_dump() | {"weight": {"dtype": "int8", "symmetric": False}}
    with pytest.raises(ValidationError, match="pruned zeros"):
        Policy.model_validate(asymmetric)


def test_reading_a_policy_needs_no_torch():
    script = (
        "import sys; from compress.quantization.policy import load_policy; load_policy('tensorrt');"
        "import compress.stages.quantize.ptq_static, compress.stages.prepare.fold_batchnorm;"
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "False"
