"""The crossing of a rising function is found to the tolerance, in no more evaluations than bisection and one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compress.pruning.root import last_below

FINENESS = 64


def counted(function):
    calls = []

    def call(x):
        calls.append(x)
        return function(x)

    return call, calls


def found(function, high):
    call, calls = counted(function)
    return last_below(call, 0.0, high, function(high), high / FINENESS), calls


@given(root=st.floats(0, 0.999), power=st.floats(0.3, 4), high=st.floats(0.01, 0.99))
def test_law_the_crossing_is_found_in_few_evaluations(root, power, high):
    low, calls = found(lambda x: (x / (root * high + 1e-9)) ** power - 1, high)
    assert low <= root * high + 1e-9 <= low + high / FINENESS * (1 + 1e-6)
    assert len(calls) <= 6 + 1
    assert low == 0 or low in calls


@given(steps=st.lists(st.floats(-1, 3), min_size=1, max_size=8))
def test_law_a_function_with_steps_is_below_where_it_says(steps):
    levels = sorted(steps)

    def stairs(x):
        return levels[min(int(x * len(levels)), len(levels) - 1)] if x < 1 else 3.0

    low, calls = found(stairs, 1.0)
    assert low == 0 or stairs(low) <= 0
    assert stairs(min(1.0, low + 1 / FINENESS + 1e-9)) > 0 or low == 0
    assert len(calls) <= 6 + 1


def test_a_noise_that_rises_with_the_amount_takes_half_of_bisections_evaluations():
    counts = [len(found(lambda x, root=root: (x / root) ** 1.2 - 1, 1.0)[1]) for root in (0.2, 0.5, 0.8, 0.97)]
    assert sum(counts) / len(counts) <= 4
