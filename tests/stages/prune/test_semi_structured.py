"""2:4 pruning: the pattern in the module and in the file, kept by training; only where a runtime gains from it."""

from __future__ import annotations

import onnx
import pytest
import torch
from doubles import GRAY, stage_context
from pydantic import ValidationError
from torch import nn

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import Refusal, StageError
from compress.formats.onnx.pattern import onnx_pattern
from compress.graph.weights import compute_weights
from compress.models.digits import DigitsNet
from compress.pruning.n_m import follows
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.prepare.fold_batchnorm import FoldBatchnorm
from compress.stages.prune.semi_structured import SemiStructured
from compress.stages.quantize.ptq_static import PtqStatic
from compress.stages.recover.finetune import Finetune


@pytest.fixture
def context(tmp_path, few_splits):
    return stage_context("two_four", target="jetson_orin_nano", splits=few_splits, folder=tmp_path)


def test_the_pattern_survives_training_quantization_and_export(context):
    torch.manual_seed(0)
    source = Artifact(Format.TORCH, DigitsNet().eval(), Precision.FP32, GRAY)
    pruned = SemiStructured().run(source, context)
    layers = len(compute_weights(source.module))
    assert context.progress.lines == [
        "two_four: stem.0 stays dense: its 1 inputs are no multiple of 4",
        f"two_four: 2:4 pattern in {layers - 1} of {layers} layers",
    ]
    tuned = Finetune(epochs=1, device="cpu").run(pruned, context)
    for before, after in zip(compute_weights(pruned.module), compute_weights(tuned.module), strict=True):
        assert torch.equal(before.tensor == 0, after.tensor == 0)
        assert before.layer == "stem.0" or follows(after.tensor, 2, 4)
    folded = FoldBatchnorm().run(tuned, context)
    exported = ToOnnx().run(PtqStatic().run(folded, context), context)
    found = onnx_pattern(onnx.load(exported.path), 2, 4)
    assert (found.following, found.layers) == (layers - 1, layers)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("jetson_nano", "Maxwell GPU has no tensor cores"),
        ("jetson_xavier_nx", "from Ampere"),
        ("raspberry_pi_4", "CPU kernels are dense"),
        ("raspberry_pi_5", "CPU kernels are dense"),
    ],
)
def test_other_targets_refuse_with_the_reason(target, reason):
    with pytest.raises(
        Refusal, match=rf"stage 'nm'.* cannot run 2:4 sparse weights .*{reason}.*fix: structured pruning"
    ):
        SemiStructured().requires(load_target(target, []), Precision.FP32, "nm")


def test_the_orin_takes_its_own_pattern_only():
    orin = load_target("jetson_orin_nano", [])
    SemiStructured().requires(orin, Precision.FP32, "nm")
    with pytest.raises(Refusal, match="skips zeros in the pattern 2:4, not 4:8"):
        SemiStructured(n=4, m=8).requires(orin, Precision.FP32, "nm")
    with pytest.raises(Refusal, match="already int8"):
        SemiStructured().requires(orin, Precision.INT8, "nm")


def test_bad_patterns_and_models(context):
    with pytest.raises(ValidationError, match="n=4 must be below m=4"):
        SemiStructured(n=4, m=4)
    odd = Artifact(Format.TORCH, nn.Sequential(nn.Conv2d(1, 3, 3)), Precision.FP32, GRAY)
    with pytest.raises(StageError, match=r"no layer can take the 2:4 pattern: 0: its 1 inputs are no multiple of 4"):
        SemiStructured().run(odd, context)
    with pytest.raises(StageError, match="matches no prunable layer"):
        SemiStructured(exclude=("stm",)).run(Artifact(Format.TORCH, DigitsNet().eval(), Precision.FP32, GRAY), context)


def test_a_target_that_says_nothing_is_not_known_to_gain():
    orin = load_target("jetson_orin_nano", []).model_copy(update={"sparse_weights": None})
    with pytest.raises(Refusal, match="is not known to run 2:4 sparse weights"):
        SemiStructured().requires(orin, Precision.FP32, "nm")
