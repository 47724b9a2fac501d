"""BatchNorm re-estimation as a stage: recovers what pruning shifted, and says why when it cannot."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from doubles import GRAY, stage_context
from torch import nn

from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import Refusal, StageError
from compress.data import DigitsData, load_splits
from compress.graph.capture import capture
from compress.quantization.batchnorm import fold_module
from compress.stages.recover.reestimate_batchnorm import ReestimateBatchnorm
from compress.training.batchnorm import running_statistics


def context(folder, splits):
    return stage_context("bn", splits=splits, folder=folder)


def artifact(module):
    return Artifact(Format.TORCH, module, Precision.FP32, GRAY)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)).eval()


@pytest.fixture(scope="module")
def splits():
    return load_splits(DigitsData(finetune=256), GRAY)


@pytest.mark.parametrize("captured", [False, True])
def test_outputs_are_normalised_again_after_the_weights_changed(tmp_path, splits, captured):
    module = network()
    with torch.no_grad():
        module[0].weight.mul_(3).add_(0.1)
    subject = capture(module, GRAY) if captured else module
    result = ReestimateBatchnorm(batches=4, batch_size=64).run(artifact(subject), context(tmp_path, splits))
    (statistics,) = running_statistics(result.module)
    images = torch.from_numpy(next(splits.finetune.batches(256)).images)
    with torch.no_grad():
        features = module[0](images)
    assert torch.allclose(statistics.mean, features.mean((0, 2, 3)), atol=1e-4)  # 4 x 64 is the whole split
    assert torch.allclose(statistics.variance, features.var((0, 2, 3)), rtol=0.03)
    assert result.history == ("bn",)
    assert torch.equal(running_statistics(subject)[0].mean, torch.zeros(4))
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_batches_and_the_seed_decide(tmp_path, splits):
    def mean(**options):
        stage = ReestimateBatchnorm(**options)
        return running_statistics(stage.run(artifact(network()), context(tmp_path, splits)).module)[0].mean

    assert torch.equal(mean(batches=2, batch_size=16), mean(batches=2, batch_size=16))
    assert not torch.equal(mean(batches=2, batch_size=16), mean(batches=3, batch_size=16))
    assert torch.equal(mean(batches=4, batch_size=64), mean(batches=99, batch_size=64))


def test_a_folded_model_is_an_error_with_the_place_for_the_stage(tmp_path, splits):
    folded, count, _ = fold_module(network(), capture(network(), GRAY))
    assert count == 1
    with pytest.raises(
        StageError, match=r"stage 'bn': the model has no BatchNorm .*fix: stage.bn.before=fold_batchnorm"
    ):
        ReestimateBatchnorm().run(artifact(folded), context(tmp_path, splits))


def test_too_few_samples_and_rounded_inputs_are_refused(tmp_path):
    with pytest.raises(StageError, match=r"split has 1 samples \| fix: data.finetune="):
        ReestimateBatchnorm().run(artifact(network()), context(tmp_path, load_splits(DigitsData(finetune=1), GRAY)))
    with pytest.raises(Refusal, match="stage 'bn' measures fp32 statistics, but its input is already int8"):
        ReestimateBatchnorm().requires(SimpleNamespace(), Precision.INT8, "bn")
