"""Chains of reshapes and transpositions: the shortest form does what the chain does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.formats.tflite.axis_atoms import Reshape, Transpose, shortest


def applied(values, steps):
    for step in steps:
        values = values.reshape(step.shape) if isinstance(step, Reshape) else values.transpose(step.order)
    return values


@st.composite
def chains(draw):
    """A shape of up to five axes, and reshapes and transpositions that fit."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=1, max_size=5))
    shape = tuple(factors)
    steps, current = [], shape
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            order = tuple(draw(st.permutations(range(len(current)))))
            steps.append(Transpose(order))
            current = tuple(current[axis] for axis in order)
        else:
            size, sizes = math.prod(current), []
            while size > 1 and len(sizes) < 5:
                sizes.append(draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0])))
                size //= sizes[-1]
            current = (*sizes, size)
            steps.append(Reshape(current))
    return shape, steps


@settings(max_examples=100, deadline=None)
@given(chains())
def test_the_shortest_form_does_the_same(chain):
    shape, steps = chain
    form = shortest(shape, steps)
    if form is None:
        return
    values = np.arange(math.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(applied(values, form), applied(values, steps))
    assert sum(isinstance(step, Transpose) for step in form) <= min(1, sum(isinstance(s, Transpose) for s in steps))
    assert len(form) <= 3
    assert all(len(step.order) <= 4 for step in form if isinstance(step, Transpose))


@pytest.mark.parametrize(
    ("shape", "steps", "form"),
    [
        ((1, 4, 4, 6), [Transpose((0, 3, 1, 2)), Transpose((0, 2, 3, 1))], []),
        ((1, 4, 4, 6), [Reshape((16, 6)), Reshape((1, 96))], [Reshape((1, 96))]),
        ((1, 4, 4, 1), [Transpose((0, 3, 1, 2))], [Reshape((1, 1, 4, 4))]),
        ((1, 4, 5, 6), [Transpose((0, 3, 1, 2))], [Transpose((0, 3, 1, 2))]),
        (  # a channel shuffle
            (1, 4, 4, 6),
            [
                *(Transpose((0, 3, 1, 2)), Reshape((1, 2, 3, 4, 4)), Transpose((0, 2, 1, 3, 4))),
                *(Reshape((1, 6, 4, 4)), Transpose((0, 2, 3, 1))),
            ],
            [Reshape((1, 16, 2, 3)), Transpose((0, 1, 3, 2)), Reshape((1, 4, 4, 6))],
        ),
        (  # the anchors of a YOLO head
            (1, 8, 8, 24),
            [Transpose((0, 3, 1, 2)), Reshape((1, 3, 8, 8, 8)), Transpose((0, 1, 3, 4, 2)), Reshape((1, 192, 8))],
            [Reshape((1, 64, 3, 8)), Transpose((0, 2, 1, 3)), Reshape((1, 192, 8))],
        ),
    ],
)
def test_forms(shape, steps, form):
    assert shortest(shape, steps) == form


def test_sizes_without_common_factors_are_left_alone():
    assert shortest((2, 3), [Transpose((1, 0)), Reshape((2, 3)), Transpose((1, 0))]) is None
