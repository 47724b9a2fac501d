"""Fine-tuning as a stage: recovers accuracy, keeps zeros, resumes, and refuses what it cannot train."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace

import pytest
import torch
from doubles import GRAY, Log, killed_after, stage_context
from pydantic import ValidationError
from torch import nn

from compress.config.compose import compose_tree
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal, StageError
from compress.data import DigitsData, ImageFolderData, load_splits
from compress.graph.capture import capture
from compress.graph.weights import compute_weights
from compress.stages.prune.magnitude import Magnitude
from compress.stages.recover.finetune import Finetune
from compress.training.validate import validate


def context(folder, splits, *, log=None, source=None, name="finetune"):
    return stage_context(name, splits=splits, folder=folder, log=log, source=source)


def artifact(module):
    return Artifact(Format.TORCH, module, Precision.FP32, GRAY)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(96, 10)),
    ).eval()


def sparsity(module):
    weights = compute_weights(module)
    return sum(weight.zeros() for weight in weights) / sum(weight.tensor.numel() for weight in weights)


def top1(module, splits):
    return validate(copy.deepcopy(module), splits.evaluation.batches(120)).top1


@pytest.fixture(scope="module")
def trained(tmp_path_factory, splits):
    stage = Finetune(epochs=10, learning_rate=0.1, device="cpu")
    return stage.run(artifact(network()), context(tmp_path_factory.mktemp("trained"), splits))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, splits, trained):
    stage = Magnitude(amount=0.85, scope="global")
    return stage.run(trained, context(tmp_path_factory.mktemp("pruned"), splits, name="magnitude"))


@pytest.mark.parametrize("distill", [False, True])
def test_a_pruned_network_recovers_and_stays_pruned(tmp_path, splits, trained, pruned, distill):
    before, log = copy.deepcopy(pruned.module.state_dict()), Log()
    stage = Finetune(epochs=8, learning_rate=0.1, distill=distill, ema=0.9, device="cpu")
    tuned = stage.run(pruned, context(tmp_path, splits, log=log, source=trained))
    assert top1(trained.module, splits) >= 0.9
    assert top1(pruned.module, splits) <= top1(trained.module, splits) - 0.1
    assert top1(tuned.module, splits) >= top1(trained.module, splits) - 0.03
    assert sparsity(tuned.module) == sparsity(pruned.module) == pytest.approx(0.85, abs=1e-3)
    assert tuned.history == ("finetune", "magnitude", "finetune")
    assert (tuned.format, tuned.precision) == (Format.TORCH, Precision.FP32)
    assert all(torch.equal(value, before[name]) for name, value in pruned.module.state_dict().items())
    assert list(tmp_path.iterdir()) == []
    assert log.lines[-1].startswith("finetune: validation top-1 ")
    assert "kept, trained on cpu" in log.lines[-1]
    source = validate(copy.deepcopy(trained.module), splits.validation.batches(160)).top1
    assert f" images, the source {source:.2%} (epoch " in log.lines[-1]


def test_zeros_come_back_to_life_when_they_may(tmp_path, splits, pruned):
    tuned = Finetune(epochs=1, keep_zeros=False, device="cpu").run(pruned, context(tmp_path, splits))
    assert sparsity(tuned.module) < 0.1


def test_a_captured_graph_is_tuned_too(tmp_path, splits, pruned):
    graph = capture(copy.deepcopy(pruned.module), GRAY)
    stage = Finetune(epochs=3, learning_rate=0.05, device="cpu")
    tuned = stage.run(artifact(graph), context(tmp_path, splits)).module
    assert sparsity(tuned) == sparsity(pruned.module)
    assert top1(tuned, splits) > top1(pruned.module, splits)
    torch.export.export(tuned, (torch.zeros(2, 1, 8, 8),))  # still an ordinary graph for later stages


def test_a_graph_for_single_images_is_refused_with_the_fix(tmp_path, splits):
    class OneImage(nn.Module):
        def forward(self, images):
            return images.reshape(images.shape[0], 64)[:, :10]

    graph = capture(OneImage(), GRAY, dynamic_batch=False)
    with pytest.raises(StageError, match=r"does not take a batch of 2 images: .*fix: export it with a dynamic batch"):
        Finetune().run(artifact(graph), context(tmp_path, splits))


def test_a_killed_stage_goes_on_and_gives_the_same_bits(tmp_path, splits, pruned):
    stage = Finetune(epochs=3, learning_rate=0.05, device="cpu")
    whole = stage.run(pruned, context(tmp_path / "a", splits)).module
    with killed_after(2):
        stage.run(pruned, context(tmp_path / "b", splits))
    assert [file.name for file in (tmp_path / "b").iterdir()] == ["checkpoint.pt"]
    log = Log()
    resumed = stage.run(pruned, context(tmp_path / "b", splits, log=log)).module
    assert log.lines[0] == "finetune: goes on after epoch 2 of 3"
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.state_dict().items())
    assert list((tmp_path / "b").iterdir()) == []


def test_training_that_makes_it_worse_leaves_the_weights(tmp_path, splits, trained):
    log = Log()
    tuned = Finetune(epochs=1, learning_rate=5, clip_norm=10, device="cpu").run(
        trained, context(tmp_path, splits, log=log)
    )
    state = trained.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in tuned.module.state_dict().items())
    assert "no epoch did better on the validation split" in log.lines[-1]
    assert tuned.history[-1] == "finetune"


def test_parameters_that_were_frozen_by_folding_are_trained(tmp_path, splits):
    module = network().requires_grad_(False)
    tuned = Finetune(epochs=1, device="cpu").run(artifact(module), context(tmp_path, splits)).module
    assert not torch.equal(tuned[0].weight, module[0].weight)
    assert not module[0].weight.requires_grad


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16])
def test_rounded_inputs_are_refused(precision):
    with pytest.raises(
        Refusal, match=rf"stage 'tune' trains fp32 weights, but its input is already {precision} \| fix"
    ):
        Finetune().requires(SimpleNamespace(), precision, "tune")


def test_missing_samples_and_a_missing_teacher_are_named(tmp_path):
    empty = load_splits(DigitsData(finetune=0), GRAY)
    with pytest.raises(StageError, match=r"fine-tuning split is empty \| fix: data.finetune="):
        Finetune().run(artifact(network()), context(tmp_path, empty))
    some = load_splits(DigitsData(finetune=64, validation=0), GRAY)
    with pytest.raises(StageError, match=r"distillation needs the source model .*stage.finetune.distill=false"):
        Finetune(distill=True).run(artifact(network()), context(tmp_path, some))
    log = Log()
    Finetune(epochs=1, device="cpu").run(artifact(network()), context(tmp_path, some, log=log))
    assert "without validation samples the last epoch is kept" in log.lines[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"epochs": 2, "warmup_epochs": 2}, "the warm-up must be shorter than epochs=2"),
        ({"learning_rate": float("nan")}, "finite number"),
        ({"optimizer": "adam"}, "'sgd' or 'adamw'"),
        ({"device": "gpu"}, "'auto', 'cpu' or 'cuda'"),
        ({"ema": 1}, "less than 1"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValidationError, match=message):
        Finetune(**options)


@pytest.mark.parametrize("name", ["finetune", "reestimate_batchnorm"])
def test_the_configuration_lists_every_option_with_its_default(name):
    import importlib

    given = compose_tree(["target=raspberry_pi_4", f"+stage@stage.{name}={name}"])["stage"][name]
    module, _, kind = given.pop("_target_").rpartition(".")
    stage = getattr(importlib.import_module(module), kind)
    assert given == stage().model_dump(mode="json")


@pytest.mark.real_data
def test_resnet20_pruned_to_80_percent_recovers(tmp_path, shared_data, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(shared_data), *sys.path])
    import nets

    cifar = InputSpec((3, 32, 32))
    images = shared_data / "images"
    data = ImageFolderData(
        kind="image_folder",
        train=images / "cifar10_train4000",
        test=images / "cifar10_test500",
        finetune=960,
        validation=128,
        evaluation=250,
    )
    splits = load_splits(data, cifar)
    stored = torch.load(shared_data / "weights" / "resnet20-12fca82f.th", map_location="cpu", weights_only=True)
    module = nets.resnet20().eval()
    module.load_state_dict({name.removeprefix("module."): value for name, value in stored["state_dict"].items()})
    source = Artifact(Format.TORCH, module, Precision.FP32, cifar)
    pruned = Magnitude(amount=0.8, scope="global").run(source, context(tmp_path, splits, name="magnitude"))
    stage = Finetune(epochs=2, learning_rate=0.02, distill=True, flip=True, shift=4, device="cpu")
    tuned = stage.run(pruned, context(tmp_path, splits, source=source))
    before, after, reference = (top1(subject.module, splits) for subject in (pruned, tuned, source))
    assert reference > 0.9
    assert before < 0.6
    assert after > 0.8
    assert sparsity(tuned.module) == pytest.approx(0.8, abs=1e-4)


def test_the_last_epoch_is_kept_when_asked(tmp_path, splits, trained):
    """At this rate every epoch is worse than the trained network, which `best` therefore keeps."""
    options = {"epochs": 2, "learning_rate": 3.0, "warmup_epochs": 0, "device": "cpu"}
    best = Finetune(**options).run(trained, context(tmp_path, splits))
    assert all(
        torch.equal(value, trained.module.state_dict()[name]) for name, value in best.module.state_dict().items()
    )
    log = Log()
    last = Finetune(**options, keep="last").run(trained, context(tmp_path, splits, log=log))
    assert not torch.equal(last.module[0].weight, trained.module[0].weight)
    assert "(epoch 2 of 2 kept" in log.lines[-1]


def test_hints_bring_inner_outputs_to_the_teachers(tmp_path, splits, trained, pruned):
    def distance(module):
        images = torch.from_numpy(next(iter(splits.validation.batches(64))).images)
        with torch.no_grad():
            return float((module[:3](images) - trained.module[:3](images)).square().mean())

    options = {"epochs": 2, "learning_rate": 0.05, "distill": True, "device": "cpu", "keep": "last"}
    plain = Finetune(**options).run(pruned, context(tmp_path, splits, source=trained))
    hinted = Finetune(**options, hints=("2",), hint_weight=10.0).run(pruned, context(tmp_path, splits, source=trained))
    assert distance(hinted.module) < 0.8 * distance(plain.module)


def test_hints_need_a_teacher_and_parts_that_exist(tmp_path, splits, trained):
    with pytest.raises(ValidationError, match="hints come from a teacher: they need distill=true"):
        Finetune(hints=("2",))
    stage = Finetune(distill=True, hints=("layer1",), device="cpu")
    with pytest.raises(StageError, match="hint 'layer1' is no part of the teacher"):
        stage.run(trained, context(tmp_path, splits, source=trained))
