"""Each decoder reads back the boxes that an encoder wrote by the published equations, in every layout it takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.core.errors import ConfigError, StageError
from compress.core.io import Frame, Signature, TensorSpec
from compress.tasks.detection.boxes_scores import BoxesScoresDecoder
from compress.tasks.detection.centers import CentersDecoder
from compress.tasks.detection.dfl import DflDecoder
from compress.tasks.detection.grid import GridDecoder
from compress.tasks.detection.in_graph import InGraphNmsDecoder
from compress.tasks.detection.ssd import PriorLevel, SsdDecoder
from compress.tasks.detection.task import DetectionTask

PLANE = (64, 96)
STRIDES = (8, 16, 32)
CLASSES = ("a", "b", "c")
ANCHORS = (((10.0, 13.0), (30.0, 23.0)), ((30.0, 61.0), (59.0, 45.0)), ((60.0, 55.0), (90.0, 60.0)))
IMAGE = TensorSpec("image", (3, *PLANE), layout="CHW")


def signature(outputs: dict[str, np.ndarray]) -> Signature:
    return Signature(
        (IMAGE,), tuple(TensorSpec(name, array.shape[1:], str(array.dtype)) for name, array in outputs.items())
    )


def logit(share):
    return np.log(share / (1 - share))


def cells(stride: int) -> tuple[int, int]:
    return PLANE[0] // stride, PLANE[1] // stride


def object_in(seed: int) -> tuple[np.ndarray, int, float]:
    """Centre and size in the plane, class and score."""
    rng = np.random.default_rng(seed)
    box = np.concatenate([rng.uniform(33, 60, 2) * [1.2, 0.9], rng.uniform(12, 50, 2)])
    return box, int(rng.integers(3)), float(rng.uniform(0.3, 0.9))


def one_box(decoder, outputs: dict[str, np.ndarray], box: np.ndarray, label: int, score: float) -> None:
    """The decoder gives exactly this one."""
    task = DetectionTask(decoder=decoder)
    specs = signature(outputs)
    task.check(specs, CLASSES)
    (own,) = task.detect(outputs, [None], specs, len(CLASSES))
    assert own.labels.tolist() == [label]
    np.testing.assert_allclose(own.scores, [score], atol=1e-4)
    centre, size = box[:2], box[2:]
    np.testing.assert_allclose(own.corners[0], [*(centre - size / 2), *(centre + size / 2)], atol=2e-2)


def grid_outputs(form: str, seed: int, activated: bool) -> tuple[list[np.ndarray], np.ndarray, int, float]:
    """Maps [anchors, rows, columns, 8] of each level with one object in the second level's last anchor."""
    box, label, score = object_in(seed)
    anchors = 1 if form == "yolox" else 2
    maps = [np.zeros((anchors, *cells(stride), 8), np.float32) for stride in STRIDES]
    if not activated:
        for own in maps:
            own[..., 4:] = -20
    level, stride = 1, STRIDES[1]
    column, row = (int(v) for v in box[:2] // stride)
    inside = box[:2] / stride - [column, row]
    anchor = np.array(ANCHORS[level][-1])
    if form == "yolox":
        raw = [*inside, *np.log(box[2:] / stride)]
    elif form == "yolov3":
        raw = [*inside, *np.log(box[2:] / anchor)]
    else:
        raw = [*(inside + 0.5) / 2, *np.sqrt(box[2:] / anchor) / 2]
    raw = np.array(raw)
    if not activated and form != "yolox":
        count = 4 if form == "yolov5" else 2
        raw[:count] = logit(np.clip(raw[:count], 1e-6, 1 - 1e-6))
    cell = maps[level][-1, row, column]
    cell[:4] = raw
    shares = np.full(4, 1e-6)
    shares[0], shares[1 + label] = 0.95, score / 0.95
    cell[4:] = shares if activated else logit(np.clip(shares, 1e-9, 1 - 1e-4))
    return maps, box, label, score


LAYOUTS = {
    "list": lambda maps: {"out": np.concatenate([m.reshape(1, -1, 8) for m in maps], axis=1)},
    "axes of one": lambda maps: {"out": np.concatenate([m.reshape(1, -1, 8) for m in maps], axis=1)[:, None]},
    "turned": lambda maps: {"out": np.concatenate([m.reshape(1, -1, 8) for m in maps], axis=1).transpose(0, 2, 1)},
    "split": lambda maps: {f"p{i}": m[None] for i, m in enumerate(maps)},
    "planes": lambda maps: {f"p{i}": m.transpose(0, 3, 1, 2).reshape(1, -1, *m.shape[1:3]) for i, m in enumerate(maps)},
    "cells": lambda maps: {
        f"p{i}": m.transpose(1, 2, 0, 3).reshape(1, *m.shape[1:3], -1) for i, m in reversed(list(enumerate(maps)))
    },
}


@pytest.mark.parametrize("form", ["yolox", "yolov3", "yolov5"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_grid(form, layout):
    for activated, seed in ((True, 0), (False, 1)):
        maps, box, label, score = grid_outputs(form, seed, activated)
        anchors = () if form == "yolox" else ANCHORS
        decoder = GridDecoder(form=form, strides=STRIDES, anchors=anchors, activated=activated)
        one_box(decoder, LAYOUTS[layout](maps), box, label, score)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["yolox", "yolov3", "yolov5"]))
def test_grid_inverts_the_equations_for_any_box(seed, form):
    maps, box, label, score = grid_outputs(form, seed, True)
    anchors = () if form == "yolox" else ANCHORS
    one_box(GridDecoder(form=form, anchors=anchors), LAYOUTS["list"](maps), box, label, score)


def test_a_grid_of_one_level():
    box, label, score = object_in(0)
    for layout in ("list", "planes", "split"):
        maps, box, label, score = grid_outputs("yolox", 0, True)
        one_box(GridDecoder(strides=(16,)), LAYOUTS[layout](maps[1:2]), box, label, score)


def test_grid_without_objectness():
    maps, box, label, _ = grid_outputs("yolox", 5, True)
    rows = LAYOUTS["list"](maps)["out"]
    share = float(rows[0, :, 5 + label].max())
    one_box(GridDecoder(objectness=False), {"out": np.delete(rows, 4, axis=2)}, box, label, share)


def dfl_maps(seed: int, bins: int) -> tuple[list[np.ndarray], np.ndarray, int, float]:
    """Maps [4 bins + 3, rows, columns] with one object in the second level."""
    box, label, score = object_in(seed)
    maps = [np.zeros((4 * bins + 3, *cells(stride)), np.float32) for stride in STRIDES]
    for own in maps:
        own[4 * bins :] = -20
    stride = STRIDES[1]
    column, row = (int(v) for v in box[:2] // stride)
    middle = (np.array([column, row]) + 0.5) * stride
    low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
    sides = np.concatenate([middle - low, high - middle]) / stride
    for side, distance in enumerate(sides):
        if bins == 1:
            maps[1][side, row, column] = distance
            continue
        whole = int(distance)
        logits = np.full(bins, -40.0)  # all weight on the two bins around the distance
        logits[whole], logits[whole + 1] = np.log(1 - (distance - whole) + 1e-9), np.log(distance - whole + 1e-9)
        maps[1][side * bins : (side + 1) * bins, row, column] = logits
    maps[1][4 * bins + label, row, column] = logit(score)
    return maps, box, label, score


@pytest.mark.parametrize("bins", [1, 16])
@pytest.mark.parametrize("layout", ["maps", "list", "turned", "apart", "lists apart"])
def test_dfl(bins, layout):
    maps, box, label, score = dfl_maps(3, bins)
    joined = np.concatenate([m.reshape(4 * bins + 3, -1) for m in maps], axis=1)[None]
    outputs = {
        "maps": {f"p{i}": m[None] for i, m in enumerate(maps)},
        "list": {"out": joined},
        "turned": {"out": joined.transpose(0, 2, 1)},
        "apart": {f"b{i}": m[None, : 4 * bins] for i, m in enumerate(maps)}
        | {f"c{i}": m[None, 4 * bins :] for i, m in enumerate(maps)},
        "lists apart": {"scores": joined[:, 4 * bins :], "boxes": joined[:, : 4 * bins]},
    }[layout]
    one_box(DflDecoder(bins=bins), outputs, box, label, score)


def in_form(box: np.ndarray, form: str) -> np.ndarray:
    centre, size = box[:2], box[2:]
    low, high = centre - size / 2, centre + size / 2
    forms = {"xyxy": [*low, *high], "yxyx": [*low[::-1], *high[::-1]], "xywh": [*low, *size], "cxcywh": [*box]}
    return np.array(forms[form], np.float32)


@pytest.mark.parametrize("form", ["xyxy", "yxyx", "xywh", "cxcywh"])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("layout", ["two", "two turned", "one", "one turned", "objectness", "background"])
def test_boxes_scores(form, normalised, layout):
    box, label, score = object_in(7)
    boxes, scores = np.zeros((1, 20, 4), np.float32), np.zeros((1, 20, 3), np.float32)
    sizes = np.float32([PLANE[1], PLANE[0], PLANE[1], PLANE[0]])
    own = in_form(box, form) / ((sizes[[1, 0, 3, 2]] if form == "yxyx" else sizes) if normalised else 1)
    boxes[0, 11], scores[0, 11, label] = own, score
    options = {"form": form, "normalised": normalised}
    outputs = {"scores": scores, "boxes": boxes}
    if layout == "two turned":
        outputs = {name: array.transpose(0, 2, 1) for name, array in outputs.items()}
    elif layout.startswith("one"):
        both = np.concatenate([boxes, scores], axis=2)
        outputs = {"out": both if layout == "one" else both.transpose(0, 2, 1)}
    elif layout == "objectness":
        options["objectness"] = True
        outputs = {"out": np.concatenate([boxes, np.ones((1, 20, 1), np.float32), scores], axis=2)}
    elif layout == "background":
        options["background"] = True
        outputs["scores"] = np.concatenate([np.ones((1, 20, 1), np.float32), scores], axis=2)
        options |= {"boxes": "boxes", "scores": "scores"}  # both have four columns
    one_box(BoxesScoresDecoder(**options), outputs, box, label, score)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_scores_that_still_need_something(activation):
    box, label, score = object_in(8)
    scores = np.full((1, 9, 4), -30.0, np.float32)
    if activation == "sigmoid":
        scores[0, 4, 1 + label] = logit(score)
    else:
        scores[0, :, 0] = 0
        scores[0, 4, 1 + label] = logit(score)
    boxes = np.tile(in_form(box, "xyxy"), (1, 9, 1))
    decoder = BoxesScoresDecoder(background=True, activation=activation, boxes="boxes", scores="scores")
    one_box(decoder, {"boxes": boxes, "scores": scores}, box, label, score)


@pytest.mark.parametrize("order", ["xy", "yx"])
def test_ssd(order):
    levels = (
        PriorLevel(rows=4, columns=6, sizes=((0.2, 0.3), (0.4, 0.2))),
        PriorLevel(rows=2, columns=3, sizes=((0.5, 0.5), (0.6, 0.3))),
    )
    box, label, score = object_in(9)
    shares = box / np.array([PLANE[1], PLANE[0]] * 2)
    index = 2 * (6 * 2 + 3) + 1  # row 2, column 3, second size of the first level
    prior = np.array([(3 + 0.5) / 6, (2 + 0.5) / 4, 0.4, 0.2])
    offsets = np.concatenate([(shares[:2] - prior[:2]) / prior[2:] / 0.1, np.log(shares[2:] / prior[2:]) / 0.2])
    boxes = np.zeros((1, 60, 4), np.float32)
    boxes[0, index] = offsets if order == "xy" else offsets[[1, 0, 3, 2]]
    scores = np.full((1, 60, 4), -30.0, np.float32)
    scores[..., 0] = 0
    scores[0, index, 1 + label] = logit(score)
    decoder = SsdDecoder(levels=levels, order=order, boxes="boxes", scores="scores")
    one_box(decoder, {"scores": scores, "boxes": boxes}, box, label, score)
    short = {"scores": scores[:, :50], "boxes": boxes[:, :50]}
    with pytest.raises(ConfigError, match=r"60 priors: boxes \[60, 4\] and scores \[60, 4\]"):
        DetectionTask(decoder=decoder).check(signature(short), CLASSES)


@pytest.mark.parametrize("count", [True, False])
def test_in_graph_nms(count):
    box, label, score = object_in(10)
    boxes = np.zeros((1, 7, 4), np.float32)
    boxes[0, :2] = in_form(box, "xyxy")
    scores = np.float32([[score, score, 0, 0, 0, 0, 0]])
    labels = np.full((1, 7), label, np.int64)
    outputs = {"boxes": boxes, "scores": scores, "labels": labels}
    if count:
        outputs["count"] = np.array([1], np.int32)  # the second row is padding
    else:
        scores[0, 1] = 0
    decoder = InGraphNmsDecoder()
    one_box(decoder, outputs, box, label, score)
    assert DetectionTask(decoder=decoder).compared(signature(outputs)) == ()
    together = np.concatenate([boxes, scores[..., None], labels[..., None]], axis=2).astype(np.float32)[:, :1]
    one_box(decoder, {"out": together}, box, label, score)


def test_in_graph_nms_of_tensorflow_lite():
    """Four outputs, all float32, boxes as fractions, class 0 the first one."""
    box, label, score = object_in(11)
    boxes = np.zeros((1, 10, 4), np.float32)
    boxes[0, 0] = in_form(box, "yxyx") / np.float32([PLANE[0], PLANE[1], PLANE[0], PLANE[1]])
    outputs = {
        "TFLite_Detection_PostProcess": boxes,
        "TFLite_Detection_PostProcess:1": np.full((1, 10), label, np.float32),
        "TFLite_Detection_PostProcess:2": np.eye(1, 10, dtype=np.float32) * np.float32(score),
        "TFLite_Detection_PostProcess:3": np.ones(1, np.float32),
    }
    bare = InGraphNmsDecoder(form="yxyx", normalised=True)
    with pytest.raises(ConfigError, match=r"task\.decoder\.boxes=, scores= and labels= do"):
        DetectionTask(decoder=bare).check(signature(outputs), CLASSES)
    names = {"labels": "TFLite_Detection_PostProcess:1", "scores": "TFLite_Detection_PostProcess:2"}
    one_box(bare.model_copy(update=names), outputs, box, label, score)


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("sizes_in", ["cells", "pixels"])
def test_centers(shift, sizes_in):
    box, label, score = object_in(12)
    rows, columns = cells(4)
    if not shift:
        box[:2] = box[:2] // 4 * 4
    column, row = (int(v) for v in box[:2] // 4)
    heat = np.zeros((1, 3, rows, columns), np.float32)
    heat[0, label, row - 1 : row + 2, column - 1 : column + 2] = score / 2  # a slope that is no peak
    heat[0, label, row, column] = score
    size = np.zeros((1, 2, rows, columns), np.float32)
    size[0, :, row, column] = box[2:] / (4 if sizes_in == "cells" else 1)
    outputs = {"heat": heat, "wh": size}
    if shift:
        outputs["reg"] = np.zeros_like(size)
        outputs["reg"][0, :, row, column] = box[:2] / 4 - [column, row]
    one_box(CentersDecoder(sizes_in=sizes_in), outputs, box, label, score)


def test_boxes_come_out_in_pixels_of_the_picture():
    box, label, score = object_in(13)
    outputs = {"boxes": in_form(box, "xyxy")[None, None].repeat(5, axis=1), "scores": np.zeros((1, 5, 3), np.float32)}
    outputs["scores"][0, 2, label] = score
    frame = Frame(height=200, width=300, scale=(0.25, 0.5), offset=(6.0, -4.0))
    task = DetectionTask(decoder="boxes_scores")
    (own,) = task.detect(outputs, [frame], signature(outputs), 3)
    x0, y0, x1, y1 = in_form(box, "xyxy")
    np.testing.assert_allclose(own.corners[0], [(x0 + 4) / 0.5, (y0 - 6) / 0.25, (x1 + 4) / 0.5, (y1 - 6) / 0.25])


@pytest.mark.parametrize(
    ("outputs", "fix"),
    [
        ({"out": (3549 // 21, 5)}, "task=fidelity"),
        ({"boxes": (30, 4), "scores": (30, 3)}, "task.decoder.kind=boxes_scores task.decoder.form=cxcywh"),
        ({"out": (7, 126)}, "task.decoder.kind=dfl task.decoder.bins=1"),
        ({"out": (67, 126)}, "task.decoder.kind=dfl"),
        ({"boxes": (10, 4), "scores": (10,), "labels": (10,), "n": ()}, "task.decoder.kind=nms"),
        ({"hm": (3, 16, 24), "wh": (2, 16, 24)}, "task.decoder.kind=centers"),
    ],
)
def test_outputs_that_do_not_fit_name_the_nearest_decoder(outputs, fix):
    specs = Signature((IMAGE,), tuple(TensorSpec(name, shape) for name, shape in outputs.items()))
    with pytest.raises(ConfigError) as raised:
        DetectionTask().check(specs, CLASSES)
    message = str(raised.value)
    assert "decoder grid reads [126, 8] in either order, or maps [8, 8, 12]" in message
    assert all(name in message for name in outputs)
    assert message.endswith(fix) or "or task=fidelity" in message
    if "kind" in fix:
        options = dict(part.removeprefix("task.decoder.").split("=") for part in fix.split())
        DetectionTask(decoder=options).check(specs, CLASSES)


def test_nan_is_refused_before_it_becomes_no_box():
    maps, *_ = grid_outputs("yolox", 0, True)
    outputs = LAYOUTS["split"](maps)
    outputs["p2"][0, 0, 0, 0, 6] = np.nan
    with pytest.raises(StageError, match="output 'p2' holds NaN"):
        DetectionTask().detect(outputs, [None], signature(outputs), 3)


def test_options_that_contradict_each_other():
    with pytest.raises(ValueError, match="form yolox has no anchors"):
        GridDecoder(anchors=ANCHORS)
    with pytest.raises(ValueError, match="needs anchors for 3 strides, got 1"):
        GridDecoder(form="yolov5", anchors=ANCHORS[:1])


def test_agreement_counts_boxes_of_the_same_class_that_overlap():
    box = in_form(object_in(1)[0], "xyxy")
    far = box + 200

    def outputs(rows):
        boxes, scores = np.zeros((1, 6, 4), np.float32), np.zeros((1, 6, 3), np.float32)
        for index, (corners, label, score) in enumerate(rows):
            boxes[0, index], scores[0, index, label] = corners, score
        return {"boxes": boxes, "scores": scores}

    reference = outputs([(box, 0, 0.9), (far, 1, 0.8), (far + 300, 2, 0.2)])
    candidate = outputs([(box + 2, 0, 0.6), (far, 2, 0.8), (far + 300, 2, 0.3)])
    task = DetectionTask(decoder="boxes_scores")
    agreement = task.agreement(reference, candidate, [None], signature(reference), CLASSES)
    assert (agreement.matched.tolist(), agreement.reference.tolist(), agreement.candidate.tolist()) == ([1], [2], [3])
    assert (agreement.recall, agreement.precision) == (0.5, pytest.approx(1 / 3))
    assert agreement.fractions.tolist() == [pytest.approx(2 / 5)]
    none = outputs([])
    assert task.agreement(none, none, [None], signature(none), CLASSES).fractions.tolist() == [1]
