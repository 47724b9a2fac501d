"""Hints: the loss between inner outputs, and which parts may be named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.core.errors import StageError
from compress.training.hints import hint_loss, outputs_of, require_parts


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 2, 1)))


def test_outputs_of_named_parts_are_seen_inside_the_block_only():
    module, images = network(), torch.rand(3, 1, 5, 5)
    with outputs_of(module, ["0", "1.1"]) as found:
        result = module(images)
    assert torch.equal(found["0"], module[0](images))
    assert torch.equal(found["1.1"], result)
    kept = dict(found)
    module(2 * images)
    assert all(found[name] is kept[name] for name in kept)


def test_the_loss_is_the_error_in_shares_of_the_teachers_energy():
    teacher = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.ones(2, 2)}
    student = {"a": torch.tensor([[3.0, 0.0]]), "b": torch.zeros(2, 2)}
    assert hint_loss(student, teacher) == pytest.approx(16 / 25 + 1)
    assert hint_loss(teacher, teacher) == 0


@settings(deadline=None)
@given(st.floats(1e-3, 1e3))
def test_the_loss_does_not_depend_on_the_size_of_the_values(scale):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6).unbind()
    expected = hint_loss({"a": student}, {"a": teacher})
    torch.testing.assert_close(hint_loss({"a": scale * student}, {"a": scale * teacher}), expected)


def test_a_part_of_another_shape_is_named():
    with pytest.raises(StageError, match=r"hint 'a': the student gives \[3\] there, the teacher \[4\]"):
        hint_loss({"a": torch.ones(2, 3)}, {"a": torch.ones(2, 4)})
    with pytest.raises(StageError, match="hint 'a': the student gives no tensor there"):
        hint_loss({}, {"a": torch.ones(2, 4)})


def test_an_unknown_part_lists_near_names():
    with pytest.raises(StageError, match=r"hint '1\.2' is no part of the student") as error:
        require_parts(network(), ["1", "1.2"], "student")
    assert "1.1" in str(error.value.fix)
