"""Classification, regression, retrieval and fidelity: known figures, laws of any evaluator, and one-line refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.budget import Verdict
from compress.core.chance import ChanceMeter
from compress.core.errors import ConfigError, DataError, ParityError, StageError
from compress.core.intervals import wilson_interval
from compress.core.io import Signature, TensorSpec
from compress.formats.parity import FidelityMeter
from compress.tasks.bootstrap import change, score
from compress.tasks.classification import ClassificationTask
from compress.tasks.closeness import ClosenessMeter
from compress.tasks.fidelity import FidelityTask
from compress.tasks.registry import TASKS, for_data, task_class
from compress.tasks.regression import RegressionTask
from compress.tasks.retrieval import RetrievalTask

TEN = tuple("abcdefghij")


def signature(**outputs: tuple[int | None, ...]) -> Signature:
    specs = tuple(TensorSpec(name, shape) for name, shape in outputs.items())
    return Signature((TensorSpec("x", (4,)),), specs)


def case(kind: str, rng: np.random.Generator, samples: int):
    """A task, its evaluator's arguments, outputs [n, ...] and targets."""
    if kind == "classification":
        outputs = rng.normal(size=(samples, 10)).astype(np.float32)
        targets = rng.integers(0, 10, samples).tolist()
        outputs[np.arange(samples), targets] += 1.5
        return ClassificationTask(), (signature(y=(10,)), TEN), outputs, targets
    if kind == "regression":
        targets = list(rng.normal(size=(samples, 3)))
        return RegressionTask(), (signature(y=(3,)), ()), np.array(targets) + rng.normal(0, 0.3, (samples, 3)), targets
    targets = rng.integers(0, 4, samples).tolist()
    outputs = np.eye(4)[targets] + rng.normal(0, 0.6, (samples, 4))
    return RetrievalTask(), (signature(y=(4,)), TEN[:4]), outputs.astype(np.float32), targets


KINDS = ["classification", "regression", "retrieval"]


def filled(kind: str, seed: int, samples: int, order=None, batch: int = 7):
    task, arguments, outputs, targets = case(kind, np.random.default_rng(seed), samples)
    order = np.arange(samples) if order is None else order
    evaluator = task.evaluator(*arguments)
    for start in range(0, samples, batch):
        own = order[start : start + batch]
        evaluator.update({"y": outputs[own]}, [targets[i] for i in own], [None] * len(own))
    return evaluator


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(8, 40), st.integers(1, 12))
def test_neither_batches_nor_order_matter_and_nothing_changes_against_itself(kind, seed, samples, batch):
    order = np.random.default_rng(seed).permutation(samples)
    one, other = filled(kind, seed, samples), filled(kind, seed, samples, order, batch)
    assert one.samples == other.samples == samples
    for metric in one.metrics:
        np.testing.assert_allclose(one.value(metric.name), other.value(metric.name), rtol=1e-9)
        if kind != "retrieval":
            subset = order[: samples // 2]
            expected = other.value(metric.name, np.arange(samples // 2))
            np.testing.assert_allclose(one.value(metric.name, subset), expected, rtol=1e-9)
        same = change(one, filled(kind, seed, samples), metric.name, resamples=10)
        assert same is not None
        assert same.value == 0
        assert same.low <= 0 <= same.high
        if one.successes(metric.name) is None:
            assert same.low == same.high == 0


def test_top1_its_interval_and_its_change_are_todays_figures():
    rng = np.random.default_rng(0)
    task, arguments, logits, labels = case("classification", rng, 200)
    worse = logits + rng.normal(0, 1.0, logits.shape).astype(np.float32)
    before, after = task.evaluator(*arguments), task.evaluator(*arguments)
    before.update({"y": logits}, labels, [None] * 200)
    after.update({"y": worse}, labels, [None] * 200)
    meter = ChanceMeter()
    meter.update(logits, np.array(labels))
    accuracy = meter.accuracy()
    own = score(before, "top1")
    assert own is not None
    assert (own.value, own.low, own.high, own.samples) == (accuracy.top1, accuracy.low, accuracy.high, 200)
    was, now = logits.argmax(1) == labels, worse.argmax(1) == labels
    verdict = Verdict(200, int(was.sum()), int((was & ~now).sum()), int((now & ~was).sum()), 0.0, 0.0)
    lost = change(before, after, "top1")
    assert lost is not None
    assert 100 * lost.value == pytest.approx(verdict.change_points)
    assert (100 * lost.low, 100 * lost.high) == pytest.approx(verdict.interval_points)
    assert before.metric("top1").loss(lost.value) == pytest.approx(-verdict.change_points)
    agreement = task.agreement({"y": logits}, {"y": worse}, [None] * 200, *arguments)
    fidelity = FidelityMeter()
    fidelity.update(logits, worse)
    assert agreement.fractions.mean() == fidelity.result().agreement


def test_top5_needs_ten_classes_and_ties_go_to_the_first_class():
    few = ClassificationTask().evaluator(signature(y=(9,)), TEN[:9])
    assert [metric.name for metric in few.metrics] == ["top1"]
    many = ClassificationTask().evaluator(signature(y=(10,)), TEN)
    many.update({"y": np.zeros((3, 10), np.float32)}, [0, 4, 5], [None] * 3)
    assert many.successes("top1").tolist() == [True, False, False]
    assert many.successes("top5").tolist() == [True, True, False]
    rows = {row.name: row for row in many.table()}
    assert (rows["a"].value, rows["e"].value, rows["j"].value) == (1, 0, None)


@pytest.mark.parametrize(
    ("task", "outputs", "message"),
    [
        (
            ClassificationTask(),
            {"boxes": (100, 4)},
            r"\[N, classes\]; the model gives boxes \[100, 4\] .*task=fidelity",
        ),
        (ClassificationTask(), {"a": (10,), "b": (10,)}, r"a \[10\], b \[10\] .*task.output=a or b"),
        (ClassificationTask(output="c"), {"a": (10,)}, r"'c' is not one row .*task.output=a"),
        (ClassificationTask(), {"a": (9,)}, r"a \[9\] has scores for 9 classes, the data has 10"),
        (RegressionTask(), {"a": (1,), "b": (1,)}, r"a \[1\], b \[1\] .*task.output=a or b"),
        (RetrievalTask(), {"a": (3, 8, 8)}, r"one vector \[N, size\]; the model gives a \[3, 8, 8\]"),
        (FidelityTask(ignore=("a",)), {"a": (3,)}, "task.ignore names every output"),
        (FidelityTask(ignore=("b",)), {"a": (3,)}, "task.ignore names no output of the model: b"),
    ],
)
def test_outputs_that_do_not_fit(task, outputs, message):
    with pytest.raises(ConfigError, match=message):
        task.check(signature(**outputs), TEN)


@pytest.mark.parametrize("shape", [(10,), (10, 1, 1), (None,)])
def test_rows_of_scores_that_fit(shape):
    ClassificationTask().check(signature(y=shape), TEN)


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        ("classification", 10, r"cat\.jpg has label 10, but the model gives 10 classes \(0 to 9\)"),
        ("classification", -1, r"cat\.jpg has label -1"),
        ("classification", None, r"cat\.jpg has no class number but NoneType"),
        ("retrieval", 4, r"cat\.jpg has label 4"),
        ("regression", np.zeros(2), r"cat\.jpg has 2 value\(s\), the model gives 3"),
        ("regression", np.array([0, np.nan, 0]), r"cat\.jpg has a label that is NaN"),
        ("regression", None, r"cat\.jpg has no number but NoneType"),
    ],
)
def test_targets_that_do_not_fit_name_the_sample(kind, target, message):
    task, arguments, outputs, targets = case(kind, np.random.default_rng(0), 2)
    with pytest.raises(DataError, match=message):
        task.evaluator(*arguments).update({"y": outputs}, [targets[0], target], [None] * 2, ["dog.jpg", "cat.jpg"])


@pytest.mark.parametrize("kind", KINDS)
def test_nan_is_refused(kind):
    task, arguments, outputs, targets = case(kind, np.random.default_rng(0), 3)
    outputs[1, 1] = np.nan
    with pytest.raises(StageError, match="output 'y' holds NaN"):
        task.evaluator(*arguments).update({"y": outputs}, targets, [None] * 3)
    with pytest.raises(StageError, match="gives no output 'y', only z"):
        task.evaluator(*arguments).update({"z": outputs}, targets, [None] * 3)


def r2(targets: np.ndarray, outputs: np.ndarray) -> float:
    """Mean over the values of 1 - residual / total sum of squares, as scikit-learn's `r2_score` by default."""
    total = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    return float((1 - ((targets - outputs) ** 2).sum(axis=0) / total).mean())


def test_regression_errors_are_what_their_names_say():
    task, arguments, outputs, targets = case("regression", np.random.default_rng(1), 50)
    labels = np.array(targets)
    own = filled("regression", 1, 50)
    assert own.value("r2") == pytest.approx(r2(labels, outputs))
    assert own.value("mae") == pytest.approx(np.abs(labels - outputs).mean())
    assert own.value("rmse") == pytest.approx(np.sqrt(((labels - outputs) ** 2).mean()))
    drawn = np.array([0, 0, 4, 7, 9])
    assert own.value("r2", drawn) == pytest.approx(r2(labels[drawn], outputs[drawn]))
    perfect = task.evaluator(*arguments)
    perfect.update({"y": np.array(targets)}, targets, [None] * 50)
    assert (perfect.value("r2"), perfect.value("mae"), perfect.value("rmse")) == (1, 0, 0)
    assert own.metric("mae").loss(0.25) == 0.25


def test_labels_that_never_change_have_no_r2():
    evaluator = RegressionTask().evaluator(signature(y=(1,)), ())
    evaluator.update({"y": np.array([[1.0], [2.0]])}, [0.3, 0.3], [None] * 2)
    assert np.isnan(evaluator.value("r2"))
    assert score(evaluator, "r2") is None


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_retrieval_counts_the_right_neighbours(similarity):
    rng = np.random.default_rng(2)
    vectors, labels = rng.normal(size=(300, 8)).astype(np.float32), rng.integers(0, 6, 300)
    vectors[:, 0] += labels
    evaluator = RetrievalTask(similarity=similarity).evaluator(signature(y=(8,)), TEN[:6])
    evaluator.update({"y": vectors}, labels.tolist(), [None] * 300)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T if similarity == "cosine" else -((vectors[:, None] - vectors[None]) ** 2).sum(-1)
    np.fill_diagonal(near, -np.inf)
    order = np.argsort(-near, axis=1)
    for metric, k in (("recall1", 1), ("recall5", 5)):
        expected = (labels[order[:, :k]] == labels[:, None]).any(axis=1)
        assert evaluator.value(metric) == pytest.approx(expected.mean(), abs=0.004)  # rounding of near ties
    alone = RetrievalTask().evaluator(signature(y=(8,)), TEN[:2])
    alone.update({"y": vectors[:3]}, [0, 0, 1], [None] * 3)
    assert alone.successes("recall5").tolist() == [True, True, False]


def test_closeness_keeps_outputs_apart():
    """A detector whose boxes are 300 times its scores: one figure would hide that every score is wrong."""
    rng = np.random.default_rng(0)
    reference = {"boxes": rng.uniform(0, 300, (8, 50, 4)), "scores": rng.uniform(0, 1, (8, 50, 3))}
    candidate = {"boxes": reference["boxes"] + 0.1, "scores": 1 - reference["scores"]}
    meter = ClosenessMeter(["boxes", "scores"])
    for own in (slice(3), slice(3, 8)):
        meter.update({n: v[own] for n, v in reference.items()}, {n: v[own] for n, v in candidate.items()})
    boxes, scores = meter.result()
    assert boxes.sqnr_db > 60
    assert scores.sqnr_db < 5
    assert boxes.agreement is None
    assert scores.agreement is None
    assert boxes.max_abs_error == pytest.approx(0.1)
    assert meter.sample_sqnr_db("scores").shape == (8,)
    both = ClosenessMeter(["all"])
    joined = [{"all": np.concatenate([o["boxes"], o["scores"]], axis=2)} for o in (reference, candidate)]
    both.update(*joined)
    assert both.result()[0].sqnr_db > 40


def test_closeness_of_a_row_of_logits_is_todays_fidelity():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(20, 5)).astype(np.float32)
    candidate = reference + rng.normal(0, 0.5, (20, 5)).astype(np.float32)
    meter, today = ClosenessMeter(["y"]), FidelityMeter()
    meter.update({"y": reference}, {"y": candidate})
    today.update(reference, candidate)
    own, expected = meter.result()[0], today.result()
    assert own.sqnr_db == pytest.approx(expected.sqnr_db)
    assert (own.agreement, own.samples) == (expected.agreement, 20)
    assert own.max_abs_error == pytest.approx(expected.max_abs_error)


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ({"y": np.zeros((2, 4))}, r"shape \[2, 4\], the reference \[2, 3\]"),
        ({"z": np.zeros((2, 3))}, "'y' is missing; there are z"),
        ({"y": np.full((2, 3), np.inf)}, "'y' holds NaN or infinity"),
    ],
)
def test_closeness_refuses_what_cannot_be_compared(candidate, message):
    with pytest.raises(ParityError, match=message):
        ClosenessMeter(["y"]).update({"y": np.ones((2, 3))}, candidate)


def test_fidelity_needs_no_labels_and_says_which_samples_stay_the_same():
    task, specs = FidelityTask(), signature(y=(3,), field=(1, 4, 4), ids=(2,))
    task.check(specs, ())
    rng = np.random.default_rng(0)
    reference = {"y": np.eye(3)[[0, 1, 2]], "field": rng.normal(size=(3, 1, 4, 4)), "ids": np.ones((3, 2), np.int64)}
    candidate = {name: values.copy() for name, values in reference.items()}
    candidate["y"][0] = [0, 1, 0]
    candidate["field"][1] *= 1.2
    candidate["ids"][2, 1] = 7
    agreement = task.agreement(reference, candidate, [None] * 3, specs, ())
    assert agreement.matched.tolist() == [2, 2, 2]
    assert agreement.fractions.tolist() == [pytest.approx(2 / 3)] * 3
    evaluator = task.evaluator(specs, ())
    evaluator.update(reference, [None] * 3, [None] * 3)
    assert (evaluator.samples, evaluator.metrics, task.metrics) == (3, (), ())


def test_an_interval_needs_two_samples_and_holds_the_value():
    evaluator = RegressionTask().evaluator(signature(y=(1,)), ())
    evaluator.update({"y": np.array([[1.0]])}, [0.5], [None])
    own = score(evaluator, "mae")
    assert own is not None
    assert (own.value, own.low, own.high, own.samples) == (0.5, None, None, 1)
    many = filled("regression", 3, 60)
    interval = score(many, "mae", seed=1)
    assert interval is not None
    assert interval == score(many, "mae", seed=1)
    spread = np.std([many.value("mae", np.random.default_rng(i).integers(0, 60, 60)) for i in range(300)])
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * spread, rel=0.2)
    assert wilson_interval(3, 4)[0] < 0.75


def test_a_paired_change_needs_the_same_samples():
    with pytest.raises(StageError, match="got 9 and 8"):
        change(filled("regression", 0, 9), filled("regression", 0, 8), "mae")


def test_every_task_has_a_name_and_metrics_of_different_names():
    for name, task in TASKS.items():
        assert task.name == name
        assert task_class(name) is task
        assert len({metric.name for metric in task.metrics}) == len(task.metrics)
    with pytest.raises(ConfigError, match=r"task 'detect' is unknown .*did you mean 'detection'"):
        task_class("detect")


def test_fidelity_is_chosen_where_nothing_is_labelled():
    asked = TASKS["detection"]()
    assert for_data(asked, labelled=True) is asked
    assert isinstance(for_data(asked, labelled=False), FidelityTask)
    own = FidelityTask(ignore=("a",))
    assert for_data(own, labelled=False) is own
