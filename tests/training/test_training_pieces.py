"""The small pieces of training a network: schedule, distillation, masks, averages, options, modes, statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from doubles import GRAY
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compress.core.errors import StageError
from compress.core.stage import Batch
from compress.graph.capture import capture
from compress.training.average import WeightAverage
from compress.training.batchnorm import reestimate, running_statistics
from compress.training.device import choose_device, seeded
from compress.training.distill import distillation_loss
from compress.training.masks import KeepZeros
from compress.training.mode import set_batchnorm_training, set_training
from compress.training.optimizer import build_optimizer
from compress.training.options import TrainOptions
from compress.training.schedule import cosine_factor


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 5)
    ).eval()


# schedule


def test_schedule_warms_up_linearly_and_falls_as_half_a_cosine():
    factors = [cosine_factor(step, warmup=4, total=12) for step in range(12)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[8] == pytest.approx(0.5)
    assert factors[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert cosine_factor(99, warmup=4, total=12) == factors[-1]


@given(total=st.integers(1, 500), data=st.data())
def test_law_the_rate_rises_then_falls_and_is_never_zero(total, data):
    warmup = data.draw(st.integers(0, total - 1))
    factors = [cosine_factor(step, warmup=warmup, total=total) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[: warmup + 1] == sorted(factors[: warmup + 1])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert factors[warmup] == 1


# distillation


def test_distillation_is_the_formula_of_the_paper():
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(6, 4), torch.randn(6, 4), torch.randint(4, (6,))
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    soft = 9 * (p * (p / q).log()).sum(1).mean()
    hard = F.cross_entropy(student, labels)
    loss = distillation_loss(student, teacher, labels, temperature=3.0, alpha=0.7)
    assert float(loss) == pytest.approx(float(0.7 * soft + 0.3 * hard), rel=1e-5)


def test_the_soft_gradient_keeps_its_size_over_the_temperature():
    """The point of T^2: for T far above zero-mean logits the gradient tends to (student - teacher) / classes."""
    student, teacher = torch.tensor([[0.2, -0.1, -0.1]], requires_grad=True), torch.tensor([[-0.1, 0.3, -0.2]])
    for temperature in (50.0, 5000.0):
        loss = distillation_loss(student, teacher, torch.zeros(1).long(), temperature=temperature, alpha=1.0)
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.numpy() == pytest.approx(((student - teacher) / 3).detach().numpy(), abs=2e-3)


@given(alpha=st.floats(0, 1), temperature=st.floats(0.5, 20))
def test_law_a_perfect_student_has_no_soft_loss(alpha, temperature):
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    loss = distillation_loss(logits, logits, labels, temperature=temperature, alpha=alpha)
    assert float(loss) == pytest.approx((1 - alpha) * float(F.cross_entropy(logits, labels)), abs=1e-5)


# masks


def test_zeros_are_kept_in_weights_and_gradients_only():
    module = network()
    with torch.no_grad():
        module[0].weight[:2] = 0
    hook = KeepZeros(module)
    assert hook.count == 18
    module(torch.randn(2, 1, 8, 8)).sum().backward()
    biases = module[5].bias.grad.clone()
    hook.before_step(module)
    assert not module[0].weight.grad[:2].any()
    assert module[0].weight.grad[2:].all()
    assert torch.equal(module[5].bias.grad, biases)
    with torch.no_grad():
        module[0].weight.add_(1.0)
    hook.after_step(module)
    assert not module[0].weight[:2].any()
    assert module[0].weight[2:].all()


def test_zeros_are_kept_in_parametrized_weights_and_captured_graphs():
    module = network()
    with torch.no_grad():
        module[0].weight[0] = 0
    graph = capture(module, GRAY)
    torch.nn.utils.parametrize.register_parametrization(module[0], "weight", nn.Identity())
    for part, name in ((module, "0.parametrizations.weight.original"), (graph, "0.weight")):
        hook = KeepZeros(part)
        parameter = dict(part.named_parameters())[name]
        with torch.no_grad():
            parameter.add_(1.0)
        hook.after_step(part)
        assert int((parameter == 0).sum()) == 9


# average


def test_average_follows_with_a_warmed_up_decay_and_is_swapped_in_and_out():
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = WeightAverage(module, decay=0.5)
    nn.init.ones_(module.weight)
    average.update(module)  # decay min(0.5, 1/10)
    assert float(average.values["weight"]) == pytest.approx(0.9)
    average.update(module)  # decay min(0.5, 2/11)
    assert float(average.values["weight"]) == pytest.approx(1 - 0.1 * 2 / 11)
    with average.applied(module):
        assert torch.equal(module.weight, average.values["weight"])
    assert module.weight.item() == 1


def test_average_takes_running_statistics_but_no_other_buffer():
    assert set(WeightAverage(network(), 0.9).values) == {
        *("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "5.weight", "5.bias")
    }


def test_averaged_weights_are_judged_with_their_zeros():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4, bias=False))
    average = WeightAverage(module, 0.9)
    with torch.no_grad():
        module[0].weight[:2] = 0  # pruned after the average began
    hook = KeepZeros(module)
    with average.applied(module):
        assert (module[0].weight[:2] != 0).all()
        hook.at_judgement(module)
        assert (module[0].weight[:2] == 0).all()
        assert (module[0].weight[2:] != 0).all()


# optimizer and options


def test_only_tensors_of_two_dimensions_are_decayed():
    groups = build_optimizer(network(), TrainOptions(1, 0.1, weight_decay=0.3)).param_groups
    assert [(group["weight_decay"], len(group["params"]), group["nesterov"]) for group in groups] == [
        (0.3, 2, True),
        (0.0, 3, True),
    ]
    with pytest.raises(StageError, match="no parameter to train"):
        build_optimizer(network().requires_grad_(False), TrainOptions(1, 0.1))


def test_impossible_options_are_named():
    with pytest.raises(ValueError, match="epochs=0 must be at least 1"):
        TrainOptions(0, 0.1)
    with pytest.raises(ValueError, match="warmup_epochs=2 must be from 0 to less than epochs=2"):
        TrainOptions(2, 0.1, warmup_epochs=2)


def test_a_missing_gpu_is_an_error_only_when_it_was_asked_for():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert choose_device("auto").type == "cpu"
    with pytest.raises(StageError, match=r"device=cuda, but torch finds no .* \| fix: device=auto or cpu"):
        choose_device("cuda")


def test_a_seeded_block_leaves_the_random_state_outside_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with seeded(torch.device("cpu"), 1):
        torch.rand(5)
    assert torch.equal(torch.rand(3), expected)


def test_options_refuse_a_judgement_after_the_end():
    with pytest.raises(ValueError, match=r"judge_from=3 must be from 0 to less than epochs=3"):
        TrainOptions(epochs=3, learning_rate=0.1, judge_from=3)


# modes


def test_captured_graphs_train_and_infer_like_the_module_they_came_from():
    module = network()
    graph = capture(module, GRAY)
    images = torch.randn(6, 1, 8, 8)
    set_training(module, True)
    module[3].eval()  # the capture drops dropout
    set_training(graph, True)
    assert torch.allclose(graph(images), module(images), atol=1e-6)
    set_training(graph, False)
    set_training(module, False)
    assert torch.allclose(graph(images), module(images), atol=1e-6)
    set_batchnorm_training(graph, True)
    mean = dict(graph.named_buffers())["1.running_mean"].clone()
    graph(images + 1)
    assert not torch.equal(dict(graph.named_buffers())["1.running_mean"], mean)


def test_dropout_of_an_exported_program_is_switched():
    graph = torch.export.export(network(), (torch.zeros(2, 1, 8, 8),)).module(check_guards=False)
    images = torch.ones(2, 1, 8, 8)
    assert torch.equal(graph(images), graph(images))
    set_training(graph, True)
    assert not torch.equal(graph(images), graph(images))


def test_a_users_own_train_method_is_respected():
    class Frozen(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    module = nn.Sequential(Frozen(3))
    set_training(module, True)
    assert (module.training, module[0].training) == (True, False)


def test_a_graph_with_fixed_statistics_is_refused():
    program = torch.export.export(network(), (torch.zeros(2, 1, 8, 8),)).run_decompositions()
    with pytest.raises(StageError, match=r"cannot be trained: .*normalises by fixed statistics"):
        set_training(program.module(check_guards=False), True)


# batch normalisation


@pytest.mark.parametrize("captured", [False, True])
def test_statistics_become_the_mean_over_the_batches_and_nothing_else_changes(captured):
    module = network()
    module[3] = nn.Identity()
    reference = network()
    reference[1].momentum = None  # torch's own cumulative average
    reference[1].reset_running_stats()
    reference[1].train()
    subject = capture(module, GRAY) if captured else module
    weights = {name: p.clone() for name, p in subject.named_parameters()}
    rng = np.random.default_rng(0)
    batches = [Batch(rng.random((8, 1, 8, 8), dtype=np.float32), np.zeros(8, np.int64)) for _ in range(5)]
    assert reestimate(subject, batches) == 5
    for batch in batches:
        reference(torch.from_numpy(batch.images))
    (found,) = running_statistics(subject)
    assert torch.allclose(found.mean, reference[1].running_mean, atol=1e-6)
    assert torch.allclose(found.variance, reference[1].running_var, atol=1e-6)
    assert all(torch.equal(p, weights[name]) for name, p in subject.named_parameters())
    images = torch.from_numpy(batches[0].images)
    assert torch.allclose(subject(images), reference.eval()(images), atol=1e-5)
    assert torch.equal(subject(images[:1]), subject(images[:1]))  # inference mode again
    assert captured or module[1].momentum == 0.1


def test_without_batches_the_statistics_stay():
    module = network()
    assert reestimate(module, []) == 0
    assert torch.equal(module[1].running_var, torch.ones(4))
    assert running_statistics(nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False))) == []
