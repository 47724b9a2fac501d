"""The front of several runs, held against its definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compress.report.html.pareto import Point, front, pareto_plot
from compress.report.html.plot import svg

values = st.integers(0, 6).map(float)
clouds = st.lists(st.tuples(values, values), min_size=1, max_size=12)


def beats(one, other):
    no_worse = one.cost <= other.cost and one.worth >= other.worth
    return no_worse and (one.cost, one.worth) != (other.cost, other.worth)


@given(clouds)
def test_law_the_front_is_whom_nobody_beats(cloud):
    points = [Point(number, cost, worth) for number, (cost, worth) in enumerate(cloud)]
    assert set(front(points)) == {point for point in points if not any(beats(other, point) for other in points)}


def test_the_front_goes_from_cheap_to_good():
    points = [Point(1, 10, 90), Point(2, 5, 80), Point(3, 6, 70), Point(4, 20, 90)]
    assert [point.number for point in front(points)] == [2, 1]


def test_groups_have_fronts_of_their_own_and_the_description_names_them():
    points = [Point(1, 1, 90, "onnxruntime"), Point(2, 2, 80, "onnxruntime"), Point(3, 9, 70, "litert")]
    plot = pareto_plot("p", "Latency", "ms", "top-1 %", points)
    assert "On the front of onnxruntime: run 1 (1 ms, 90.0 top-1 %)." in plot.alt
    assert "On the front of litert: run 3" in plot.alt
    drawn = svg(plot)
    for text in (">1<", ">2<", ">3<", ">onnxruntime<", ">litert<"):
        assert text in drawn
