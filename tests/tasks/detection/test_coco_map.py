"""mAP equals that of the two public implementations, for any boxes, crowds, empty pictures and resamples."""

from __future__ import annotations

import contextlib
import io
import time

import faster_coco_eval
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from compress.core.errors import DataError
from compress.core.io import Boxes, Mask
from compress.tasks.bootstrap import change, score
from compress.tasks.detection.candidates import Candidates
from compress.tasks.detection.evaluator import DetectionEvaluator

CLASSES = ("cat", "dog", "owl", "empty")


def boxes(corners, labels, crowd=None) -> Boxes:
    corners = np.asarray(corners, np.float32).reshape(-1, 4)
    crowd = np.zeros(len(corners), np.bool_) if crowd is None else np.asarray(crowd, np.bool_)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return Boxes(corners, np.asarray(labels, np.int64), crowd, areas.astype(np.float32))


def scene(seed: int, pictures: int = 12) -> tuple[list[Boxes], list[Candidates]]:
    """Labelled boxes, and answers near some of them and anywhere, with equal scores, crowds and empty pictures."""
    rng = np.random.default_rng(seed)
    truths, answers = [], []
    for _ in range(pictures):
        count = int(rng.integers(0, 7))
        low = rng.uniform(0, 300, (count, 2))
        truth = boxes(
            np.concatenate([low, low + rng.uniform(10, 150, (count, 2))], axis=1),
            rng.integers(0, 3, count),
            rng.random(count) < 0.2,
        )
        near = np.repeat(truth.corners, 3, axis=0) + rng.normal(0, 8, (3 * count, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        low = rng.uniform(0, 300, (5, 2))
        corners = np.concatenate([near, np.concatenate([low, low + rng.uniform(5, 90, (5, 2))], axis=1)])
        labels = np.concatenate([np.repeat(truth.labels, 3), rng.integers(0, 4, 5)])
        scores = np.round(rng.random(len(labels)), 1)
        truths.append(truth)
        answers.append(Candidates(corners.astype(np.float32), scores.astype(np.float32), labels.astype(np.int64)))
    return truths, answers


def distinct(answers: list[Candidates]) -> None:
    """Scores that are all different: where they are equal the order of the pictures decides, as in pycocotools."""
    rng = np.random.default_rng(0)
    for answer in answers:
        answer.scores[:] = rng.random(len(answer))


def evaluator(truths, answers, batch: int = 5) -> DetectionEvaluator:
    waiting = iter(answers)
    own = DetectionEvaluator(lambda outputs, frames: [next(waiting) for _ in frames], CLASSES)
    for start in range(0, len(truths), batch):
        part = truths[start : start + batch]
        own.update({}, part, [None] * len(part))
    return own


def coco_form(truths, answers) -> tuple[dict, list[dict]]:
    def xywh(corners):
        x0, y0, x1, y1 = map(float, corners)
        return [x0, y0, x1 - x0, y1 - y0]

    annotations = [
        {
            "id": 1 + 1000 * image + index,
            "image_id": image,
            "category_id": int(truth.labels[index]),
            "bbox": xywh(truth.corners[index]),
            "area": float(truth.areas[index]),
            "iscrowd": int(truth.crowd[index]),
        }
        for image, truth in enumerate(truths)
        for index in range(len(truth.labels))
    ]
    results = [
        {
            "image_id": image,
            "category_id": int(answer.labels[index]),
            "bbox": xywh(answer.corners[index]),
            "score": float(answer.scores[index]),
        }
        for image, answer in enumerate(answers)
        for index in range(len(answer))
    ]
    document = {
        "info": {},
        "images": [{"id": image, "width": 640, "height": 480} for image in range(len(truths))],
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(CLASSES)],
    }
    return document, results


def pycocotools_map(truths, answers) -> tuple[float, float]:
    document, results = coco_form(truths, answers)
    with contextlib.redirect_stdout(io.StringIO()):
        labelled = COCO()
        labelled.dataset = document
        labelled.createIndex()
        judge = COCOeval(labelled, labelled.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[0], judge.stats[1]


@pytest.mark.parametrize("seed", range(6))
def test_map_equals_pycocotools(seed):
    truths, answers = scene(seed)
    own = evaluator(truths, answers)
    expected = pycocotools_map(truths, answers)
    assert own.value("map") == pytest.approx(expected[0], abs=1e-6)
    assert own.value("map50") == pytest.approx(expected[1], abs=1e-6)
    assert 0.02 < expected[0] < 0.98


def test_map_equals_faster_coco_eval():
    truths, answers = scene(7)
    document, results = coco_form(truths, answers)
    labelled = faster_coco_eval.COCO(document)
    judge = faster_coco_eval.COCOeval_faster(labelled, labelled.loadRes(results), "bbox", separate_eval=True)
    judge.run()
    own = evaluator(truths, answers)
    assert own.value("map") == pytest.approx(judge.stats[0], abs=1e-6)
    assert own.value("map50") == pytest.approx(judge.stats[1], abs=1e-6)


def test_a_resample_is_worth_what_its_pictures_are_when_they_are_really_repeated():
    truths, answers = scene(3)
    distinct(answers)
    drawn = np.array([0, 0, 2, 3, 3, 3, 5, 7, 8, 8, 9, 11])
    expected = pycocotools_map([truths[i] for i in drawn], [answers[i] for i in drawn])
    own = evaluator(truths, answers)
    assert own.value("map", drawn) == pytest.approx(expected[0], abs=1e-6)
    assert own.value("map50", drawn) == pytest.approx(expected[1], abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_neither_batches_nor_the_order_of_pictures_matter(seed, batch):
    truths, answers = scene(seed)
    distinct(answers)
    order = np.random.default_rng(seed).permutation(len(truths))
    one = evaluator(truths, answers)
    other = evaluator([truths[i] for i in order], [answers[i] for i in order], batch)
    np.testing.assert_allclose(one.value("map"), other.value("map"), atol=1e-12)
    np.testing.assert_allclose(one.value("map", order[:5]), other.value("map", np.arange(5)), atol=1e-12)


def test_the_labels_themselves_score_one_and_each_class_has_a_row():
    truths, _ = scene(1)
    truths = [boxes(t.corners, t.labels) for t in truths]
    answers = [Candidates(t.corners, np.ones(len(t.labels), np.float32), t.labels) for t in truths]
    own = evaluator(truths, answers)
    assert own.value("map") == own.value("map50") == 1
    table = own.table()
    assert [row.name for row in table] == list(CLASSES)
    assert [row.count for row in table] == [sum(int((t.labels == c).sum()) for t in truths) for c in range(4)]
    assert [row.value for row in table] == [1, 1, 1, None]


def test_a_missed_class_scores_zero_and_pictures_without_objects_nothing_at_all():
    nothing = Candidates(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert np.isnan(evaluator([], []).value("map"))
    empty = evaluator([boxes([], [])] * 3, [nothing] * 3)
    assert np.isnan(empty.value("map"))
    assert score(empty, "map") is None
    missed = evaluator([boxes([[0, 0, 9, 9]], [1])] * 3, [nothing] * 3)
    assert missed.value("map") == 0


def test_the_change_of_a_model_against_itself_is_exactly_nothing():
    truths, answers = scene(2)
    same = change(evaluator(truths, answers), evaluator(truths, answers), "map", resamples=50)
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_what_is_lost_for_certain_is_shown_and_pairing_narrows_the_interval():
    truths, answers = scene(4, pictures=40)
    worse = [Candidates(a.corners + np.float32(6), a.scores, a.labels) for a in answers]
    before, after = evaluator(truths, answers), evaluator(truths, worse)
    lost = change(before, after, "map", resamples=200)
    alone = score(before, "map", resamples=200)
    assert lost is not None
    assert alone is not None
    assert lost.low <= lost.value <= lost.high < 0
    assert lost.high - lost.low < alone.high - alone.low


def test_a_thousand_resamples_of_two_hundred_pictures_take_seconds():
    truths, answers = scene(5, pictures=200)
    own = evaluator(truths, answers)
    own.value("map")
    start = time.process_time()
    own.weighted("map", np.random.default_rng(0).multinomial(200, [1 / 200] * 200, size=100))
    assert time.process_time() - start < 1.0  # 0.1 s: 1 ms each


def test_targets_that_are_no_boxes_of_these_classes_name_the_sample():
    own = evaluator([], [])
    with pytest.raises(DataError, match=r"b\.jpg has a box of class 4, but the model gives 4 classes"):
        own.update({}, [boxes([], []), boxes([[0, 0, 1, 1]], [4])], [None, None], ["a.jpg", "b.jpg"])
    with pytest.raises(DataError, match="sample 0 has no boxes but Mask"):
        own.update({}, [Mask(np.zeros((2, 2), np.int64))], [None])
