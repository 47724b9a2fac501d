"""Maps are brought to the picture's size, ignored pixels do not count, and mIoU is that of one confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import ConfigError, DataError, StageError
from compress.core.io import Boxes, Frame, Mask, Signature, TensorSpec
from compress.tasks.bootstrap import change, score
from compress.tasks.segmentation import SegmentationTask, on_picture

CLASSES = ("none", "cat", "dog")
IMAGE = TensorSpec("image", (3, 12, 16), layout="CHW")


def signature(*outputs: TensorSpec) -> Signature:
    return Signature((IMAGE,), outputs)


SCORES = signature(TensorSpec("logits", (3, 6, 8)))


def scene(seed: int, samples: int = 6) -> tuple[np.ndarray, list[Mask], list[Frame]]:
    rng = np.random.default_rng(seed)
    frames = [
        Frame(height, width, (12 / height, 16 / width), (0.0, 0.0))
        for height, width in rng.integers(5, 30, (samples, 2))
    ]
    masks = [Mask(rng.choice([0, 1, 2, 255], (frame.height, frame.width))) for frame in frames]
    return rng.normal(size=(samples, 3, 6, 8)).astype(np.float32), masks, frames


def filled(logits, masks, frames, batch: int = 4):
    evaluator = SegmentationTask().evaluator(SCORES, CLASSES)
    for start in range(0, len(masks), batch):
        own = slice(start, start + batch)
        evaluator.update({"logits": logits[own]}, masks[own], frames[own])
    return evaluator


def confusion(logits, masks) -> np.ndarray:
    """Rows labelled, columns answered; the nearest element by whole numbers, (2 i + 1) elements / (2 pixels)."""
    table = np.zeros((3, 3), np.int64)
    for scores, mask in zip(logits, masks, strict=True):
        height, width = mask.classes.shape
        rows, columns = (2 * np.arange(height) + 1) * 6 // (2 * height), (2 * np.arange(width) + 1) * 8 // (2 * width)
        answer = scores.argmax(0)[rows[:, None], columns[None]]
        judged = mask.classes != 255
        np.add.at(table, (mask.classes[judged], answer[judged]), 1)
    return table


def miou(table: np.ndarray) -> float:
    labelled = table.sum(axis=1)
    union = labelled + table.sum(axis=0) - np.diag(table)
    return float((np.diag(table) / union)[labelled > 0].mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_figures_are_those_of_one_confusion_matrix_for_any_subset_and_order(seed, batch):
    logits, masks, frames = scene(seed)
    evaluator = filled(logits, masks, frames)
    table = confusion(logits, masks)
    assert evaluator.value("miou") == pytest.approx(miou(table))
    assert evaluator.value("pixel_accuracy") == pytest.approx(np.diag(table).sum() / table.sum())
    drawn = np.random.default_rng(seed).integers(0, 6, 6)
    assert evaluator.value("miou", drawn) == pytest.approx(miou(sum(confusion(logits[[i]], [masks[i]]) for i in drawn)))
    order = np.random.default_rng(seed).permutation(6)
    other = filled(logits[order], [masks[i] for i in order], [frames[i] for i in order], batch)
    assert other.value("miou") == pytest.approx(evaluator.value("miou"))
    same = change(evaluator, filled(logits, masks, frames), "miou", resamples=10)
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_labels_themselves_score_one_and_a_class_nobody_labelled_has_no_value():
    frames = [Frame(6, 8, (2.0, 2.0), (0.0, 0.0))] * 2
    masks = [Mask(np.random.default_rng(i).integers(0, 2, (6, 8))) for i in range(2)]
    logits = np.stack([np.eye(3, dtype=np.float32)[mask.classes].transpose(2, 0, 1) for mask in masks])
    evaluator = filled(logits, masks, frames)
    assert evaluator.value("miou") == evaluator.value("pixel_accuracy") == 1
    assert [row.value for row in evaluator.table()] == [1, 1, None]
    assert sum(row.count for row in evaluator.table()) == 96
    own = score(evaluator, "miou")
    assert own is not None
    assert (own.low, own.high) == (1, 1)


def test_letterbox_and_crop_go_back_to_where_the_pixels_came_from():
    plane = np.arange(16).reshape(4, 4)
    boxed = on_picture(plane, Frame(4, 2, (1.0, 1.0), (0.0, 1.0)), (4, 4), -1)  # two columns in the middle
    np.testing.assert_array_equal(boxed, plane[:, 1:3])
    cropped = on_picture(plane, Frame(4, 6, (1.0, 1.0), (0.0, -1.0)), (4, 4), -1)
    np.testing.assert_array_equal(cropped[:, 1:5], plane)
    assert (cropped[:, [0, 5]] == -1).all()
    halved = on_picture(plane, Frame(8, 8, (1.0, 1.0), (0.0, 0.0)), (8, 8), -1)  # the map has half the plane's size
    np.testing.assert_array_equal(halved, plane.repeat(2, 0).repeat(2, 1))


def test_what_a_crop_cut_off_is_not_judged():
    frame = Frame(12, 20, (1.0, 1.0), (0.0, -2.0))
    evaluator = filled(np.zeros((1, 3, 6, 8), np.float32), [Mask(np.zeros((12, 20), np.int64))], [frame])
    assert evaluator.value("pixel_accuracy") == 1
    assert evaluator.table()[0].count == 12 * 16


@pytest.mark.parametrize("form", ["scores", "integers", "plane", "one plane of integers"])
def test_every_form_of_a_map(form):
    frame = Frame(6, 8, (2.0, 2.0), (0.0, 0.0))
    mask = Mask(np.random.default_rng(0).integers(0, 2, (6, 8)))
    outputs = {
        "scores": np.eye(2, dtype=np.float32)[mask.classes].transpose(2, 0, 1),
        "integers": mask.classes.astype(np.int32),
        "plane": (mask.classes[None] * 2 - 1).astype(np.float32),
        "one plane of integers": mask.classes[None].astype(np.uint8),
    }
    own = outputs[form]
    specs = signature(TensorSpec("out", own.shape, str(own.dtype)))
    task = SegmentationTask()
    task.check(specs, CLASSES[:2])
    evaluator = task.evaluator(specs, CLASSES[:2])
    evaluator.update({"out": own[None]}, [mask], [frame])
    assert evaluator.value("miou") == 1


def test_agreement_is_the_share_of_equal_pixels():
    logits, _, frames = scene(0)
    other = logits.copy()
    other[:, :, :3] = -logits[:, :, :3]
    agreement = SegmentationTask().agreement({"logits": logits}, {"logits": other}, frames, SCORES, CLASSES)
    expected = (logits.argmax(1) == other.argmax(1)).mean(axis=(1, 2))
    np.testing.assert_allclose(agreement.fractions, expected)
    assert (agreement.fractions < 0.7).all()


@pytest.mark.parametrize(
    ("task", "outputs", "message"),
    [
        (SegmentationTask(), [TensorSpec("y", (21,))], r"one map .* gives y \[21\] .*task=classification"),
        (SegmentationTask(), [TensorSpec("y", (21, 6, 8))], r"planes for 21 classes, the data has 3"),
        (SegmentationTask(), [TensorSpec("y", (1, 6, 8))], "tells two classes apart, the data has 3"),
        (
            SegmentationTask(),
            [TensorSpec("y", (3, 6, 8)), TensorSpec("aux", (3, 6, 8))],
            r"y \[3, 6, 8\], aux \[3, 6, 8\] .*task.output=y or aux",
        ),
        (SegmentationTask(output="z"), [TensorSpec("y", (3, 6, 8))], "task.output is 'z' .*task.output=y"),
    ],
)
def test_outputs_that_do_not_fit(task, outputs, message):
    with pytest.raises(ConfigError, match=message):
        task.check(signature(*outputs), CLASSES)


def test_targets_that_do_not_fit_name_the_sample():
    logits, masks, frames = scene(0, samples=2)
    for target, message in (
        (Mask(np.full(masks[0].classes.shape, 3)), r"mask of a\.png has class 3, but the model gives 3 classes"),
        (Mask(np.zeros((2, 3), np.int64)), r"the mask of a\.png is 3x2, its picture \d+x\d+"),
        (Boxes(*[np.zeros(0)] * 4), r"a\.png has no mask but Boxes"),
    ):
        evaluator = SegmentationTask().evaluator(SCORES, CLASSES)
        with pytest.raises(DataError, match=message):
            evaluator.update({"logits": logits}, [target, masks[1]], frames, ["a.png", "b.png"])
    logits[1, 0, 0, 0] = np.nan
    with pytest.raises(StageError, match="'logits' holds NaN"):
        SegmentationTask().evaluator(SCORES, CLASSES).update({"logits": logits}, masks, frames)
