"""The loop: it learns, keeps the best epoch, stops early, resumes to the same bits, and leaves the process alone."""

from __future__ import annotations

import copy

import pytest
import torch
from doubles import GRAY, Log
from torch import nn

from compress.core.errors import StageError
from compress.data import DigitsData, load_splits
from compress.graph.capture import capture
from compress.training import learner
from compress.training.hooks import Hook
from compress.training.loop import train
from compress.training.masks import KeepZeros
from compress.training.options import TrainOptions
from compress.training.samples import Samples
from compress.training.shuffle import Shuffled


@pytest.fixture(scope="module")
def digits():
    splits = load_splits(DigitsData(finetune=400, validation=100), GRAY)
    return Samples(splits.finetune), Samples(splits.validation)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Dropout(0.1), nn.Flatten(), nn.Linear(64, 10)),
    ).eval()


def fit(module, digits, options, *, log=None, **more):
    finetune, validation = digits
    shuffled = Shuffled(finetune, size=40, seed=1)
    more.setdefault("validation", lambda: validation.batches(50))
    return train(
        module,
        batches_of=shuffled,
        steps_per_epoch=len(shuffled),
        options=options,
        seed=3,
        progress=log or Log(),
        **more,
    )


def equal(first, second):
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


FULL = TrainOptions(
    4, 0.05, ema=0.9, clip_norm=1.0, label_smoothing=0.1, warmup_epochs=0.5, device="cpu", temperature=2.0, alpha=0.5
)


def test_a_small_network_learns_the_digits_and_says_how():
    digits_log = Log()
    splits = load_splits(DigitsData(finetune=800, validation=200), GRAY)
    data = (Samples(splits.finetune), Samples(splits.validation))
    module = network()
    result = fit(module, data, TrainOptions(8, 0.05, warmup_epochs=1, device="cpu"), log=digits_log)
    assert result.validation.top1 >= 0.9
    assert result.epochs[-1].loss < 0.1 < 1 < result.epochs[0].loss
    assert (len(result.epochs), result.resumed, result.device) == (8, 0, "cpu")
    assert len(digits_log.lines) == 8
    assert digits_log.lines[0].startswith("training: epoch 1 of 8, loss ")
    assert not any(part.training for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_same_training_gives_the_same_bits_and_another_seed_does_not(digits, optimizer):
    options = TrainOptions(2, 0.01, optimizer=optimizer, device="cpu")
    modules = [network(), network()]
    for module in modules:
        fit(module, digits, options)
    assert equal(*modules)
    assert not equal(modules[0], network())


class Killed(Exception):
    pass


class KillAt(Hook):
    def __init__(self, epoch, steps=3):
        self.epoch, self.left = epoch, steps

    def at_epoch(self, module, epoch):
        self.armed = epoch == self.epoch

    def after_step(self, module):
        self.left -= self.armed
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_training_resumes_to_the_same_bits(digits, tmp_path, optimizer):
    from dataclasses import replace

    options, teacher, path = replace(FULL, optimizer=optimizer), network(seed=5), tmp_path / "checkpoint.pt"
    whole = network()
    expected = fit(whole, digits, options, teacher=teacher)
    for epoch in (1, 3):  # killed twice
        with pytest.raises(Killed):
            fit(network(), digits, options, teacher=teacher, checkpoint=path, hooks=[KillAt(epoch)])
    log, resumed = Log(), network()
    result = fit(resumed, digits, options, teacher=teacher, checkpoint=path, log=log)
    assert equal(resumed, whole)
    assert result.epochs == expected.epochs
    assert (result.resumed, result.best) == (3, expected.best)
    assert log.lines[0] == "training: goes on after epoch 3 of 4"
    again = network()
    assert fit(again, digits, options, teacher=teacher, checkpoint=path).resumed == 4
    assert equal(again, whole)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_truncated_checkpoint_and_one_of_another_training_are_not_used(digits, tmp_path):
    path, options = tmp_path / "checkpoint.pt", TrainOptions(1, 0.05, device="cpu")
    fit(network(), digits, options, checkpoint=path)
    content = path.read_bytes()
    expected = network()
    fit(expected, digits, options)
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        log, module = Log(), network()
        assert fit(module, digits, options, checkpoint=path, log=log).resumed == 0
        assert "checkpoint.pt is damaged and not used" in log.lines[0]
        assert equal(module, expected)
    log = Log()
    assert fit(network(seed=1), digits, options, checkpoint=path, log=log).resumed == 0
    assert log.lines[0] == "checkpoint checkpoint.pt is of another training and not used"


def test_pickled_code_in_a_checkpoint_is_not_run(digits, tmp_path):
    path = tmp_path / "checkpoint.pt"

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"signature": Bomb()}, path)
    log = Log()
    fit(network(), digits, TrainOptions(1, 0.05, device="cpu"), checkpoint=path, log=log)
    assert "is damaged and not used: UnpicklingError" in log.lines[0]
    assert not (tmp_path / "ran").exists()


def test_the_best_epoch_is_kept_and_training_stops_without_a_better_one(digits):
    class Ruin(Hook):
        def at_epoch(self, module, epoch):
            if epoch >= 2:
                nn.init.zeros_(module[-1].weight)
                module[-1].weight.requires_grad_(False)

    log, module = Log(), network()
    result = fit(module, digits, TrainOptions(9, 0.05, patience=2, device="cpu"), hooks=[Ruin()], log=log)
    assert (result.best, len(result.epochs)) == (1, 4)
    best = result.validation.top1
    assert log.lines[-1] == f"training: stopped early, no better epoch in 2 (best validation top-1 {best:.2%})"
    assert bool(module[-1].weight.any())
    alone = network()
    fit(alone, digits, TrainOptions(9, 0.05, device="cpu"), hooks=[KeepZeros(alone), Ruin()])
    assert equal(alone, module)


def test_epochs_before_the_judgement_are_not_kept_however_good(digits):
    class RuinFromTheThird(Hook):
        def at_epoch(self, module, epoch):
            if epoch >= 2:
                nn.init.zeros_(module[-1].weight)
                module[-1].weight.requires_grad_(False)

    log, module = Log(), network()
    options = TrainOptions(9, 0.05, patience=2, judge_from=2, device="cpu")
    result = fit(module, digits, options, hooks=[RuinFromTheThird()], log=log)
    assert result.best >= 2
    assert not module[-1].weight.any()
    assert not any("best so far" in line for line in log.lines[:2])


def test_without_validation_samples_the_last_epoch_is_kept(digits):
    result = fit(network(), digits, TrainOptions(2, 0.05, device="cpu"), validation=None)
    assert (result.best, result.validation) == (1, None)


def test_hooks_are_called_in_order(digits):
    class Record(Hook):
        def __init__(self):
            self.calls = []

        def at_epoch(self, module, epoch):
            self.calls.append(("epoch", epoch, module.training))

        def before_step(self, module):
            self.calls.append("before" if module[0].weight.grad is not None else "no gradient")

        def after_step(self, module):
            self.calls.append("after")

    hook = Record()
    fit(network(), digits, TrainOptions(2, 0.05, device="cpu"), hooks=[hook])
    steps = ["before", "after"] * 10
    assert hook.calls == [("epoch", 0, True), *steps, ("epoch", 1, True), *steps]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("captured", [False, True])
def test_zeros_survive_momentum_decay_and_averaging(digits, optimizer, captured):
    module = network()
    with torch.no_grad():
        for layer in (module[0], module[3], module[-1]):
            layer.weight[torch.rand_like(layer.weight) < 0.7] = 0
    module = capture(module, GRAY) if captured else module
    zeros = {name: p.detach() == 0 for name, p in module.named_parameters() if p.ndim > 1}
    options = TrainOptions(2, 0.01, optimizer=optimizer, ema=0.9, clip_norm=1.0, device="cpu")
    fit(module, digits, options, hooks=[KeepZeros(module)])
    assert all(torch.equal(dict(module.named_parameters())[name] == 0, mask) for name, mask in zeros.items())


def test_a_captured_graph_trains_like_its_module(digits):
    module = network()
    module[6] = nn.Identity()  # the capture drops dropout
    graph = capture(copy.deepcopy(module), GRAY)
    options = TrainOptions(2, 0.05, device="cpu")
    results = [fit(subject, digits, options) for subject in (module, graph)]
    losses = [[epoch.loss for epoch in result.epochs] for result in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert results[0].validation.top1 == pytest.approx(results[1].validation.top1, abs=0.03)


def test_the_teacher_is_learnt_from_and_not_changed(digits):
    teacher = network(seed=9)
    fit(teacher, digits, TrainOptions(4, 0.05, device="cpu"))
    before = copy.deepcopy(teacher)
    student = network()
    options = TrainOptions(4, 0.05, temperature=2.0, alpha=1.0, device="cpu")
    fit(student, digits, options, teacher=teacher)
    assert equal(teacher, before)
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    images = torch.from_numpy(next(digits[1].batches(100)).images)
    agreement = (student(images).argmax(1) == teacher(images).argmax(1)).float().mean()
    assert float(agreement) > 0.75


def test_the_process_is_left_as_it_was(digits):
    torch.manual_seed(11)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        fit(network(), digits, TrainOptions(1, 0.05, device="cpu"))
        assert not torch.is_grad_enabled()
    torch.manual_seed(11)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_loss_that_is_not_finite_stops_with_the_fix(digits):
    with pytest.raises(StageError, match=r"training: the loss is nan in epoch 1 \| fix: a learning_rate below 1e\+20"):
        fit(network(), digits, TrainOptions(2, 1e20, device="cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None])
@pytest.mark.parametrize("captured", [False, True])
def test_on_a_gpu_it_learns_in_mixed_precision_and_resumes(digits, tmp_path, captured, dtype, monkeypatch):
    monkeypatch.setattr(learner, "autocast_dtype", lambda device, *, mixed: dtype)
    options = TrainOptions(6, 0.05, ema=0.5, warmup_epochs=0.5, clip_norm=5.0, alpha=0.5, temperature=2.0)

    def attempt(*hooks, log):
        module = network()
        with torch.no_grad():
            module[3].weight[:4] = 0
        module = capture(module, GRAY) if captured else module
        hooks = (KeepZeros(module), *hooks)
        more = {"teacher": network(seed=4), "checkpoint": tmp_path / "checkpoint.pt", "log": log}
        return module, fit(module, digits, options, hooks=hooks, **more)

    with pytest.raises(Killed):
        attempt(KillAt(2), log=Log())
    network(seed=4)  # seeds the GPU's generator as the attempt does before it trains
    state = torch.cuda.get_rng_state()
    module, result = attempt(log=Log())
    assert (result.device, result.resumed, len(result.epochs)) == ("cuda:0", 2, 6)
    assert result.validation.top1 > 0.6
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert {tensor.device.type for tensor in (*module.parameters(), *module.buffers())} == {"cpu"}
    assert not dict(module.named_parameters())["3.weight"][:4].any()
