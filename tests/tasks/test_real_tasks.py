"""Real networks on real labelled data score what was recorded of them with other programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.core.io import Boxes, Frame, KeyPoints, Mask, Signature, TensorSpec
from compress.tasks.audio_classification import AudioClassificationTask
from compress.tasks.base import Evaluator, Task
from compress.tasks.bootstrap import change, score
from compress.tasks.detection.task import DetectionTask
from compress.tasks.keypoints.task import KeyPointsTask
from compress.tasks.segmentation import SegmentationTask

pytestmark = pytest.mark.real_data


class Network:
    """An ONNX file on one thread, its outputs by name."""

    def __init__(self, path: Path, layout: str = "CHW") -> None:
        ort = pytest.importorskip("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (self.input,) = (tensor.name for tensor in self._session.get_inputs())
        self.names = [tensor.name for tensor in self._session.get_outputs()]
        self.signature = Signature(
            tuple(TensorSpec(t.name, tuple(t.shape[1:]), layout=layout) for t in self._session.get_inputs()),
            tuple(TensorSpec(t.name, tuple(t.shape[1:])) for t in self._session.get_outputs()),
        )

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self.names, self._session.run(None, {self.input: batch}), strict=True))


def bilinear(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Four neighbours without antialiasing and rounded to integers, as OpenCV's INTER_LINEAR."""
    torch = pytest.importorskip("torch")
    planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).round().numpy()


def assert_in_interval(evaluator: Evaluator, metric: str, width: float) -> None:
    own = score(evaluator, metric, resamples=100)
    assert own is not None
    assert own.low < own.value < own.high < own.low + width
    same = change(evaluator, evaluator, metric, resamples=20)
    assert same is not None
    assert same.value == same.low == same.high == 0 or evaluator.successes(metric) is not None


def checked(task: Task, network: Network, classes: list[str]) -> Evaluator:
    task.check(network.signature, classes)
    return task.evaluator(network.signature, classes)


@pytest.mark.slow  # 80 pictures through a network
def test_yolox_nano(shared_data):
    folder = shared_data / "tasks" / "detection"
    document = json.loads((folder / "coco_dev" / "annotations" / "instances_val2017.json").read_text())
    categories = sorted(document["categories"], key=lambda c: c["id"])
    label = {category["id"]: index for index, category in enumerate(categories)}
    network, task = Network(folder / "yolox_nano.onnx"), DetectionTask()
    classes = [category["name"] for category in categories]
    evaluator = checked(task, network, classes)
    for image in document["images"]:
        picture = Image.open(folder / "coco_dev" / "images" / "val2017" / image["file_name"]).convert("RGB")
        pixels = np.asarray(picture)[:, :, ::-1]
        height, width = pixels.shape[:2]
        ratio = min(416 / height, 416 / width)
        plane = np.full((416, 416, 3), 114, np.float32)
        plane[: int(height * ratio), : int(width * ratio)] = bilinear(pixels, int(height * ratio), int(width * ratio))
        own = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        frame = Frame(height, width, (ratio, ratio), (0.0, 0.0))
        outputs = network(plane.transpose(2, 0, 1)[None])
        evaluator.update(outputs, [_boxes(own, label)], [frame], [image["file_name"]])
        agreement = task.agreement(outputs, outputs, [frame], network.signature, classes)
        assert agreement.recall == agreement.precision == 1
    assert evaluator.value("map") == pytest.approx(0.3063, abs=0.003)
    assert evaluator.value("map50") == pytest.approx(0.4749, abs=0.003)
    assert_in_interval(evaluator, "map", 0.2)
    people = evaluator.table()[0]
    assert people.name == "person"
    assert 0.2 < people.value < 0.7


def _boxes(annotations: list[dict], label: dict[int, int]) -> Boxes:
    corners = np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return Boxes(
        corners,
        np.array([label[a["category_id"]] for a in annotations], np.int64),
        np.array([a["iscrowd"] for a in annotations], np.bool_),
        np.array([a["area"] for a in annotations], np.float32),
    )


@pytest.mark.slow  # 80 pictures through a network
def test_espnetv2(shared_data):
    folder = shared_data / "tasks" / "segmentation"
    classes = json.loads((folder / "classes.json").read_text())["classes"]
    network, task = Network(folder / "espnetv2_s0.5_voc384.onnx"), SegmentationTask()
    evaluator = checked(task, network, classes)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    for path in sorted((folder / "masks" / "val2017").glob("*.png")):
        images = shared_data / "tasks" / "detection" / "coco_dev" / "images" / "val2017"
        picture = Image.open(images / f"{path.stem}.jpg").convert("RGB")
        plane = (np.asarray(picture.resize((384, 384), Image.BILINEAR), np.float32) / 255 - mean) / std
        mask = np.asarray(Image.open(path)).astype(np.int64)
        frame = Frame(*mask.shape, (384 / mask.shape[0], 384 / mask.shape[1]), (0.0, 0.0))
        evaluator.update(network(plane.transpose(2, 0, 1)[None]), [Mask(mask)], [frame], [path.name])
    assert evaluator.value("miou") == pytest.approx(0.2521, abs=0.0005)
    assert evaluator.value("pixel_accuracy") == pytest.approx(0.8475, abs=0.0005)
    assert_in_interval(evaluator, "miou", 0.2)
    table = {row.name: row for row in evaluator.table()}
    assert table["background"].count > 1_000_000
    assert np.nanmean([row.value for row in table.values() if row.value is not None]) == evaluator.value("miou")


def test_ds_cnn(shared_data):
    folder = shared_data / "tasks" / "audio"
    data = np.load(folder / "kws01_dev500.npz")
    network = Network(folder / "kws_dscnn.onnx", layout="")
    evaluator = checked(AudioClassificationTask(), network, [str(index) for index in range(12)])
    for start in range(0, 500, 100):
        own = slice(start, start + 100)
        evaluator.update(network(data["mfcc"][own]), data["labels"][own].tolist(), [None] * 100)
    assert evaluator.value("top1") == pytest.approx(0.922)
    assert evaluator.value("top5") > 0.99
    assert_in_interval(evaluator, "top1", 0.06)


def test_movenet_on_crops(shared_data):
    folder = shared_data / "tasks" / "keypoints"
    document = json.loads((folder / "person_keypoints.json").read_text())
    network, task = Network(folder / "movenet_lightning_heads.onnx"), KeyPointsTask(decoder="centre_heads")
    evaluator = checked(task, network, [])
    for image in document["images"]:
        people = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        pixels = np.asarray(Image.open(folder / "images" / image["file_name"]).convert("RGB"))
        rows = np.array([a["keypoints"] for a in people], np.float32).reshape(-1, 17, 3)
        visibility = rows[..., 2].astype(np.int64)
        for index, person in enumerate(people):
            if person["num_keypoints"] == 0 or person["iscrowd"]:
                continue
            x, y, width, height = person["bbox"]
            side = max(width, height)
            left, top, scale = x + width / 2 - side / 2, y + height / 2 - side / 2, 192 / side
            frame = Frame(*pixels.shape[:2], (scale, scale), (-top * scale, -left * scale))
            target = KeyPoints(rows[..., :2], visibility, _boxes(people, {1: 0}), image["file_name"], index)
            outputs = network(_crop(pixels, left, top, side).transpose(2, 0, 1)[None])
            evaluator.update(outputs, [target], [frame], [str(person["id"])])
    assert evaluator.samples == 83
    assert evaluator.value("oks_ap") == pytest.approx(0.3523, abs=0.003)
    assert evaluator.value("oks_ap50") == pytest.approx(0.5299, abs=0.003)
    assert_in_interval(evaluator, "oks_ap", 0.3)
    assert 0 < evaluator.value("nme") < evaluator.value("pck") < 1


def _crop(pixels: np.ndarray, left: float, top: float, side: float) -> np.ndarray:
    """The square resized to 192 by 192, black outside the picture: four neighbours of each pixel's centre."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels.astype(np.float32), ((1, 1), (1, 1), (0, 0)))
    columns = np.clip(left + (np.arange(192) + 0.5) * side / 192 - 0.5, -1, width)
    rows = np.clip(top + (np.arange(192) + 0.5) * side / 192 - 0.5, -1, height)
    c0, r0 = np.floor(columns).astype(int), np.floor(rows).astype(int)
    fc, fr = (columns - c0)[None, :, None], (rows - r0)[:, None, None]
    c1, r1 = np.minimum(c0 + 2, width + 1), np.minimum(r0 + 2, height + 1)
    c0, r0 = c0 + 1, r0 + 1
    upper = padded[r0][:, c0] * (1 - fc) + padded[r0][:, c1] * fc
    lower = padded[r1][:, c0] * (1 - fc) + padded[r1][:, c1] * fc
    return np.round(upper * (1 - fr) + lower * fr).astype(np.float32)
