"""Decoders read back the points an encoder wrote; AP equals pycocotools; errors are shares of the object's box."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from compress.core.errors import ConfigError, DataError, StageError
from compress.core.io import Boxes, Frame, KeyPoints, Mask, Signature, TensorSpec
from compress.tasks.bootstrap import change
from compress.tasks.keypoints.centre_heads import CentreHeadsDecoder
from compress.tasks.keypoints.coordinates import CoordinateDecoder
from compress.tasks.keypoints.decoder import Points
from compress.tasks.keypoints.evaluator import KeyPointsEvaluator
from compress.tasks.keypoints.heatmaps import HeatmapDecoder
from compress.tasks.keypoints.oks import COCO_SIGMAS
from compress.tasks.keypoints.task import KeyPointsTask

PLANE = (48, 64)
IMAGE = TensorSpec("image", (3, *PLANE), layout="CHW")


def signature(outputs: dict[str, np.ndarray]) -> Signature:
    return Signature((IMAGE,), tuple(TensorSpec(name, array.shape[1:]) for name, array in outputs.items()))


def places(seed: int, points: int = 5) -> np.ndarray:
    """Points x, y inside the plane."""
    return np.random.default_rng(seed).uniform(6, 40, (points, 2))


def read(decoder, outputs: dict[str, np.ndarray]) -> np.ndarray:
    specs = signature(outputs)
    task = KeyPointsTask(decoder=decoder)
    task.check(specs, [])
    return task.locate(outputs, [None] * len(next(iter(outputs.values()))), specs).places[0]


def heat_of(cells: np.ndarray) -> np.ndarray:
    """Heat maps [1, points, 12, 16], stride 4, with a peak in each point's cell."""
    heat = np.zeros((1, len(cells), 12, 16), np.float32)
    heat[0, np.arange(len(cells)), cells[:, 1], cells[:, 0]] = 0.8
    return heat


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["xy", "yx"]))
def test_heatmaps_with_shifts(seed, order):
    wanted = places(seed)
    cells = (wanted // 4).astype(int)
    shifts = np.zeros((1, 5, 2, 12, 16), np.float32)
    own = wanted / 4 - cells - 0.5
    shifts[0, np.arange(5), :, cells[:, 1], cells[:, 0]] = own if order == "xy" else own[:, ::-1]
    outputs = {"heat": heat_of(cells), "shift": shifts.reshape(1, 10, 12, 16)}
    np.testing.assert_allclose(read(HeatmapDecoder(order=order), outputs), wanted, atol=1e-4)


def test_heatmaps_alone_move_a_quarter_towards_the_higher_neighbour():
    cells = np.array([[5, 6], [0, 3]])
    heat = heat_of(cells)
    heat[0, 0, 6, 6], heat[0, 0, 5, 5] = 0.5, 0.4  # to the right, and up
    np.testing.assert_allclose(read(HeatmapDecoder(), {"heat": heat})[0], [(5.75) * 4, (6.25) * 4])
    np.testing.assert_allclose(read(HeatmapDecoder(refine=False), {"heat": heat})[0], [5.5 * 4, 6.5 * 4])
    np.testing.assert_allclose(read(HeatmapDecoder(), {"heat": heat})[1], [0.5 * 4, 3.5 * 4])


@pytest.mark.parametrize("order", ["xy", "yx"])
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("form", ["pairs", "triples", "flat", "axes of one"])
def test_coordinates(order, normalised, form):
    wanted = places(1)
    own = wanted / ([PLANE[1], PLANE[0]] if normalised else 1)
    own = (own if order == "xy" else own[:, ::-1])[None].astype(np.float32)
    outputs = {
        "pairs": own,
        "triples": np.concatenate([own, np.ones((1, 5, 1), np.float32)], axis=2),
        "flat": own.reshape(1, 10),
        "axes of one": own[:, None],
    }
    decoder = CoordinateDecoder(order=order, normalised=normalised)
    np.testing.assert_allclose(read(decoder, {"out": outputs[form]}), wanted, atol=1e-4)


def test_centre_heads_choose_the_object_in_the_middle():
    wanted = places(2)
    cells = (wanted // 4).astype(int)
    heat = heat_of(cells)
    heat[0, :, 0, 0] = 0.9  # somebody else's points, higher and far off
    center = np.zeros((1, 1, 12, 16), np.float32)
    center[0, 0, 6, 8], center[0, 0, 0, 15] = 0.7, 0.9
    regression = np.zeros((1, 5, 2, 12, 16), np.float32)
    regression[0, :, :, 6, 8] = cells[:, ::-1] - [6, 8]
    offsets = np.zeros((1, 5, 2, 12, 16), np.float32)
    offsets[0, np.arange(5), :, cells[:, 1], cells[:, 0]] = (wanted / 4 - cells)[:, ::-1]
    outputs = {
        "center": center,
        "heatmaps": heat,
        "regression": regression.reshape(1, 10, 12, 16),
        "offsets": offsets.reshape(1, 10, 12, 16),
    }
    np.testing.assert_allclose(read(CentreHeadsDecoder(), outputs), wanted, atol=1e-4)


def target(rng: np.random.Generator, points: int = 17) -> KeyPoints:
    count = int(rng.integers(1, 3))
    low = rng.uniform(0, 200, (count, 2))
    size = rng.uniform(40, 150, (count, 2))
    visibility = rng.integers(0, 3, (count, points))
    if rng.random() < 0.2:
        visibility[0] = 0  # an object without labelled points
    corners = np.concatenate([low, low + size], axis=1).astype(np.float32)
    boxes = Boxes(corners, np.zeros(count, np.int64), np.zeros(count, np.bool_), size.prod(axis=1).astype(np.float32))
    own = low[:, None] + rng.uniform(0, 1, (count, points, 2)) * size[:, None]
    return KeyPoints(own.astype(np.float32), visibility, boxes)


def scene(seed: int, samples: int = 20) -> tuple[list[KeyPoints], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = [target(rng) for _ in range(samples)]
    noise = rng.exponential(6, (samples, 1, 1)) * rng.normal(size=(samples, 17, 2))
    return targets, np.stack([t.points[0] for t in targets]) + noise, rng.random((samples, 17))


def filled(targets, answers, scores, batch: int = 6) -> KeyPointsEvaluator:
    position = iter(range(len(targets)))

    def locate(outputs, frames):
        own = [next(position) for _ in frames]
        return Points(answers[own], scores[own])

    evaluator = KeyPointsEvaluator(locate, np.array(COCO_SIGMAS), 0.1)
    for start in range(0, len(targets), batch):
        part = targets[start : start + batch]
        evaluator.update({}, part, [None] * len(part))
    return evaluator


def pycocotools_ap(targets, answers, scores) -> tuple[float, float]:
    annotations, results = [], []
    for image, own in enumerate(targets):
        for index, (x0, y0, x1, y1) in enumerate(own.boxes.corners.tolist()):
            seen = own.visibility[index]
            rows = np.concatenate([own.points[index], seen[:, None]], axis=1)
            number = 1 + len(annotations)
            annotations.append(
                {"id": number, "image_id": image, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
                | {"area": float(own.boxes.areas[index]), "iscrowd": 0, "num_keypoints": int((seen > 0).sum())}
                | {"keypoints": rows.ravel().tolist()}
            )
        rows = np.concatenate([answers[image], np.ones((17, 1))], axis=1)
        mean = float(scores[image].mean())
        results.append({"image_id": image, "category_id": 1, "keypoints": rows.ravel().tolist(), "score": mean})
    document = {"info": {}, "images": [{"id": i} for i in range(len(targets))], "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        labelled = COCO()
        labelled.dataset = document | {"categories": [{"id": 1, "name": "person"}]}
        labelled.createIndex()
        judge = COCOeval(labelled, labelled.loadRes(results), "keypoints")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[0], judge.stats[1]


@pytest.mark.parametrize("seed", range(4))
def test_ap_equals_pycocotools(seed):
    targets, answers, scores = scene(seed)
    own = filled(targets, answers, scores)
    expected = pycocotools_ap(targets, answers, scores)
    assert own.value("oks_ap") == pytest.approx(expected[0], abs=1e-6)
    assert own.value("oks_ap50") == pytest.approx(expected[1], abs=1e-6)
    assert 0.05 < expected[0] < 0.9


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_neither_batches_nor_order_matter_and_nothing_changes_against_itself(seed, batch):
    targets, answers, scores = scene(seed)
    order = np.random.default_rng(seed).permutation(len(targets))
    one = filled(targets, answers, scores)
    other = filled([targets[i] for i in order], answers[order], scores[order], batch)
    for metric in one.metrics:
        np.testing.assert_allclose(one.value(metric.name), other.value(metric.name), rtol=1e-9)
    same = change(one, filled(targets, answers, scores), "oks_ap", resamples=10)
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_crops_of_one_picture_compete_for_its_objects_and_count_each_once():
    """Three people, a crop around two of them; both answers look like the first, the surer one of the second crop."""
    rng = np.random.default_rng(5)
    low = np.array([[0.0, 0], [200, 0], [400, 0]])
    corners = np.concatenate([low, low + 100], axis=1).astype(np.float32)
    boxes = Boxes(corners, np.zeros(3, np.int64), np.zeros(3, np.bool_), np.full(3, 1e4, np.float32))
    points = (low[:, None] + rng.uniform(10, 90, (3, 17, 2))).astype(np.float32)
    crops = [KeyPoints(points, np.full((3, 17), 2), boxes, "a.jpg", subject) for subject in (0, 1)]
    apart = [
        KeyPoints(points[i : i + 1], np.full((1, 17), 2), Boxes(*(a[i : i + 1] for a in vars(boxes).values())))
        for i in (0, 1)
    ]
    answers, scores = points[[0, 0]].astype(float), np.array([[0.5], [0.9]]).repeat(17, axis=1)
    together = filled(crops, answers, scores)
    expected, _ = pycocotools_ap(
        [KeyPoints(points[:2], np.full((2, 17), 2), Boxes(*(a[:2] for a in vars(boxes).values())))],
        answers[:1],
        scores[1:],
    )
    assert together.value("oks_ap") == pytest.approx(expected, abs=1e-6)  # one of two people met by the surest answer
    assert filled(apart, answers, scores).value("oks_ap") < expected  # the surer answer is a miss first
    assert together.value("pck") == 0.5  # errors are those of the crop's own subject
    third = filled(crops, points[[2, 1]].astype(float), scores)
    assert third.value("oks_ap") == pytest.approx(
        expected, abs=1e-6
    )  # nobody asked about the third: neither hit nor miss


def test_the_labels_themselves_are_perfect_and_errors_are_shares_of_the_box():
    rng = np.random.default_rng(0)
    targets = [target(rng, 17) for _ in range(4)]
    targets = [
        KeyPoints(t.points[:1], np.full((1, 17), 2), Boxes(*(a[:1] for a in vars(t.boxes).values()))) for t in targets
    ]
    exact = np.stack([t.points[0] for t in targets]).astype(float)
    own = filled(targets, exact, np.ones((4, 17)))
    assert [own.value(name) for name in ("oks_ap", "oks_ap50", "pck", "nme")] == [1, 1, 1, 0]
    sides = np.array([(t.boxes.corners[0, 2:] - t.boxes.corners[0, :2]).max() for t in targets])
    moved = exact.copy()
    moved[:, :, 0] += 0.05 * sides[:, None]
    moved[:, 0, 0] += 0.2 * sides
    off = filled(targets, moved, np.ones((4, 17)))
    assert off.value("nme") == pytest.approx((16 * 0.05 + 0.25) / 17, rel=1e-4)
    assert off.value("pck") == pytest.approx(16 / 17)
    assert off.metric("nme").loss(0.01) == pytest.approx(1)


def test_points_come_out_in_pixels_of_the_picture():
    outputs = {"out": (places(3)[None] / [PLANE[1], PLANE[0]]).astype(np.float32)}
    frame = Frame(100, 100, (0.5, 0.25), (3.0, -2.0))
    task = KeyPointsTask(decoder="coordinates")
    own = task.locate(outputs, [frame], signature(outputs)).places[0]
    np.testing.assert_allclose(own, (places(3) - [-2, 3]) / [0.25, 0.5], atol=1e-4)


def test_agreement_counts_points_that_stay():
    outputs = {"out": (places(4)[None] / [PLANE[1], PLANE[0]]).astype(np.float32)}
    moved = {"out": outputs["out"].copy()}
    moved["out"][0, :2, 0] += 0.1
    moved["out"][0, 2, 0] += 0.01
    task = KeyPointsTask(decoder="coordinates")
    agreement = task.agreement(outputs, moved, [None], signature(outputs), [])
    assert agreement.fractions.tolist() == [pytest.approx(3 / 5)]


@pytest.mark.parametrize(
    ("outputs", "fix"),
    [
        ({"out": (17, 3)}, "task.decoder=coordinates"),
        ({"heat": (17, 12, 16)}, "task.decoder=heatmaps"),
        ({"center": (1, 9, 9), "heatmaps": (4, 9, 9), "regression": (8, 9, 9), "offsets": (8, 9, 9)}, "centre_heads"),
        ({"out": (7, 5, 3, 2)}, "task=fidelity"),
    ],
)
def test_outputs_that_do_not_fit_name_the_nearest_decoder(outputs, fix):
    specs = Signature((IMAGE,), tuple(TensorSpec(name, shape) for name, shape in outputs.items()))
    wrong = CoordinateDecoder(output="nowhere")
    with pytest.raises(ConfigError) as raised:
        KeyPointsTask(decoder=wrong).check(specs, [])
    assert str(raised.value).endswith(fix)
    assert all(name in str(raised.value) for name in outputs)


def test_numbers_of_points_that_do_not_fit():
    specs = signature({"out": np.zeros((1, 5, 2))})
    with pytest.raises(ConfigError, match="has 2 values, the model gives 5 points"):
        KeyPointsTask(decoder="coordinates", sigmas=(0.1, 0.1)).check(specs, [])
    evaluator = KeyPointsTask(decoder="coordinates").evaluator(specs, [])
    with pytest.raises(DataError, match=r"a\.jpg has 17 points, the model gives 5"):
        evaluator.update({"out": np.zeros((1, 5, 2))}, [target(np.random.default_rng(0))], [None], ["a.jpg"])
    with pytest.raises(DataError, match="sample 0 has no key points but Mask"):
        evaluator.update({"out": np.zeros((1, 5, 2))}, [Mask(np.zeros((1, 1), np.int64))], [None])
    with pytest.raises(StageError, match="'out' holds NaN"):
        evaluator.update({"out": np.full((1, 5, 2), np.nan)}, [target(np.random.default_rng(0), 5)], [None], ["a.jpg"])
