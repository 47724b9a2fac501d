"""Quantization-aware training as a stage: on PTQ's path, keeps zeros, resumes, exports, refuses what it cannot do."""

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
from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal, StageError
from compress.data import DigitsData, ImageFolderData, load_splits
from compress.graph.capture import capture
from compress.quantization.fused import count_fused
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.prune.magnitude import Magnitude
from compress.stages.quantize.ptq_static import PtqStatic
from compress.stages.quantize.qat import Qat
from compress.stages.recover.finetune import Finetune
from compress.training.validate import validate


def context(folder, splits, *, log=None, source=None, name="qat", target="raspberry_pi_4"):
    folder.mkdir(exist_ok=True)
    return stage_context(name, target=target, splits=splits, folder=folder, log=log, source=source)


def artifact(module):
    return Artifact(Format.TORCH, module, Precision.FP32, GRAY)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(96, 10)),
    ).eval()


def top1(module, splits):
    return validate(copy.deepcopy(module), splits.evaluation.batches(120)).top1


def state(made):
    return {name: value for name, value in made.module.state_dict().items() if isinstance(value, torch.Tensor)}


@pytest.fixture(scope="module")
def dense(tmp_path_factory, splits):
    stage = Finetune(epochs=8, learning_rate=0.1, device="cpu")
    return stage.run(artifact(network()), context(tmp_path_factory.mktemp("dense"), splits))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, splits, dense):
    stage = Magnitude(amount=0.7, scope="global")
    return stage.run(dense, context(tmp_path_factory.mktemp("pruned"), splits, name="magnitude"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, splits, dense, pruned):
    """A pruned network, trained for INT8; tests only look at it."""
    folder, log = tmp_path_factory.mktemp("qat"), Log()
    before = copy.deepcopy(pruned.module.state_dict())
    made = Qat(epochs=3, learning_rate=0.01, device="cpu").run(pruned, context(folder, splits, log=log, source=dense))
    return SimpleNamespace(made=made, log=log, folder=folder, before=before)


def test_a_pruned_network_is_trained_to_integers_that_recover_accuracy(run, splits, dense, pruned):
    assert top1(dense.module, splits) >= 0.9
    assert top1(pruned.module, splits) <= top1(dense.module, splits) - 0.02
    assert top1(run.made.module, splits) >= top1(dense.module, splits) - 0.02
    assert (run.made.format, run.made.precision) == (Format.TORCH, Precision.INT8)
    assert run.made.history == (*pruned.history, "qat")
    assert all(torch.equal(value, run.before[name]) for name, value in pruned.module.state_dict().items())
    assert list(run.folder.iterdir()) == []


def test_pruned_weights_stay_pruned(run, pruned):
    weights = {name: value for name, value in state(run.made).items() if value.dtype is torch.int8}
    assert weights.keys() == {"0.weight", "3.weight", "7.weight"}
    for name, integers in weights.items():
        zero = pruned.module.state_dict()[name] == 0
        assert zero.any()
        assert not integers[zero].any()
        assert integers[~zero].count_nonzero() > 0.9 * (~zero).sum()


def test_it_says_what_the_training_gained_and_what_the_source_gives(run, splits, dense, pruned):
    line = run.log.lines[-1]
    images = list(splits.validation.batches(160))
    source, came_in = (validate(copy.deepcopy(one.module), images).top1 for one in (dense, pruned))
    assert came_in < source
    assert line.startswith(
        f"qat: validation top-1 on 160 images: source {source:.2%}, FP32 as it came in {came_in:.2%}, INT8 "
    )
    epochs = [line for line in run.log.lines if line.startswith("qat: epoch ")]
    assert len(epochs) == 3
    assert all(f" of 160, the source {source:.2%}" in line for line in epochs)
    assert "% before training and " in line
    assert line.endswith("of 3 kept, trained on cpu)")


def test_the_result_exports_to_onnx_and_every_layer_runs_in_integers(run, splits, tmp_path):
    exported = ToOnnx().run(run.made, context(tmp_path, splits, name="to_onnx"))
    counted = count_fused(exported.path)
    assert counted.integer["QLinearConv"] == 2
    assert not counted.float
    assert dict(counted.conversions) == {"QuantizeLinear": 1}


def test_a_killed_stage_goes_on_and_gives_the_same_bits(tmp_path, splits, pruned):
    stage = Qat(epochs=3, learning_rate=0.005, freeze_observers_epoch=3, ema=0.9, device="cpu")
    whole = stage.run(pruned, context(tmp_path / "a", splits))
    with killed_after(2):
        stage.run(pruned, context(tmp_path / "b", splits))
    log = Log()
    resumed = stage.run(pruned, context(tmp_path / "b", splits, log=log))
    assert log.lines[0] == "qat: goes on after epoch 2 of 3"
    assert state(resumed).keys() == state(whole).keys()
    assert all(torch.equal(value, state(whole)[name]) for name, value in state(resumed).items())
    assert resumed.module.code == whole.module.code  # scales of activations are numbers in the graph
    assert list((tmp_path / "b").iterdir()) == []


def test_training_that_makes_it_worse_gives_what_ptq_gives(tmp_path, splits, dense):
    log = Log()
    stage = Qat(epochs=1, learning_rate=5, clip_norm=10, device="cpu")
    kept = stage.run(dense, context(tmp_path, splits, log=log))
    ptq = PtqStatic().run(dense, context(tmp_path, splits, name="ptq_static"))
    assert all(torch.equal(value, state(ptq)[name]) for name, value in state(kept).items())
    assert kept.module.code == ptq.module.code
    assert "no epoch did better than before training" in log.lines[-1]


def test_an_onnx_file_is_trained_too(tmp_path, splits, dense):
    exported = ToOnnx(dynamic_batch=True).run(dense, context(tmp_path, splits, name="to_onnx"))
    made = Qat(epochs=1, learning_rate=0.005, device="cpu").run(exported, context(tmp_path, splits, source=exported))
    assert (made.format, made.precision) == (Format.TORCH, Precision.INT8)
    assert top1(made.module, splits) >= top1(dense.module, splits) - 0.02


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_trains_and_the_result_comes_back(tmp_path, splits, pruned, dense):
    stage = Qat(epochs=3, learning_rate=0.01, freeze_observers_epoch=2, device="cuda")
    made = stage.run(pruned, context(tmp_path, splits, source=dense))
    assert {value.device.type for value in state(made).values()} == {"cpu"}
    assert top1(made.module, splits) >= top1(dense.module, splits) - 0.02


def test_without_validation_samples_the_last_epoch_is_kept(tmp_path, dense):
    log = Log()
    splits = load_splits(DigitsData(finetune=64, validation=0), GRAY)
    Qat(epochs=1, distill=False, keep_zeros=False, device="cpu").run(dense, context(tmp_path, splits, log=log))
    assert "without validation samples the last epoch is kept" in log.lines[-1]


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16])
def test_rounded_inputs_are_refused(precision):
    with pytest.raises(Refusal, match=rf"stage 'q' quantizes fp32 models, but its input is already {precision} \| fix"):
        Qat().requires(load_target("raspberry_pi_4", []), precision, "q")


def test_a_device_without_int8_is_refused():
    with pytest.raises(Refusal, match=r"stage 'q': NVIDIA Jetson Nano cannot run int8 compute"):
        Qat().requires(load_target("jetson_nano", []), Precision.FP32, "q")


def test_missing_samples_are_named(tmp_path, dense):
    empty = load_splits(DigitsData(finetune=0), GRAY)
    with pytest.raises(StageError, match=r"fine-tuning split is empty \| fix: data.finetune="):
        Qat().run(dense, context(tmp_path, empty))


def test_a_graph_for_single_images_is_refused_with_the_fix(tmp_path, splits):
    graph = capture(network(), GRAY, dynamic_batch=False)
    with pytest.raises(StageError, match=r"takes single images and training needs batches: .*precision=int8"):
        Qat().run(artifact(graph), context(tmp_path, splits))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"epochs": 2, "warmup_epochs": 2}, "the warm-up must be shorter than epochs=2"),
        ({"learning_rate": float("inf")}, "finite number"),
        ({"observer": "minmax"}, "unknown observer 'minmax': did you mean 'min_max'"),
        ({"placement": "onnx"}, "unknown placement 'onnx'"),
        ({"alpha": 1.5}, "less than or equal to 1"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValidationError, match=message):
        Qat(**options)


def test_the_configuration_lists_every_option_with_its_default():
    given = compose_tree(["target=raspberry_pi_4", "precision=int8_qat"])["stage"]["qat"]
    assert given.pop("_target_") == f"{Qat.__module__}.{Qat.__name__}"
    assert given == Qat().model_dump(mode="json")


def test_it_is_a_precision_of_its_own():
    tree = compose_tree(["target=raspberry_pi_4", "precision=int8_qat"])
    assert list(tree["stage"]) == ["fold_batchnorm", "to_onnx_fp32", "magnitude", "qat", "to_onnx"]


@pytest.mark.slow
@pytest.mark.real_data
def test_resnet20_keeps_or_improves_what_ptq_reaches(tmp_path, shared_data, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(shared_data), *sys.path])
    import nets

    cifar, images = InputSpec((3, 32, 32)), shared_data / "images"
    data = ImageFolderData(
        kind="image_folder",
        train=images / "cifar10_train4000",
        test=images / "cifar10_test500",
        calibration=64,
        finetune=1000,
        validation=128,
        evaluation=250,
    )
    splits = load_splits(data, cifar)
    stored = torch.load(shared_data / "weights" / "resnet20-12fca82f.th", map_location="cpu", weights_only=True)
    module = nets.resnet20().eval()
    module.load_state_dict({name.removeprefix("module."): value for name, value in stored["state_dict"].items()})
    source = Artifact(Format.TORCH, module, Precision.FP32, cifar)
    stage = Qat(epochs=1, flip=True, shift=4, device="cpu")
    made = stage.run(source, context(tmp_path, splits, source=source))
    ptq = PtqStatic(batch_size=64).run(source, context(tmp_path, splits, name="ptq_static"))
    chosen_by = [validate(subject.module, splits.validation.batches(128)).top1 for subject in (made, ptq)]
    assert chosen_by[0] >= chosen_by[1]
    assert top1(made.module, splits) >= top1(module, splits) - 0.01
