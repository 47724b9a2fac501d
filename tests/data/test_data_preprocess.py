"""Preprocessing equals torchvision's, and refuses what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from compress.core.artifact import InputSpec, Scaling
from compress.core.errors import DataError
from compress.data.configs import NpzData
from compress.data.load import load_splits
from compress.data.preprocess import Preprocess

KINDS = ("bilinear", "bicubic", "nearest")


def image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (33, 57), (299, 299)])
def test_resize_and_crop_equal_torchvision(size):
    spec = InputSpec((3, 24, 24))
    reference = v2.Compose([v2.Resize(32), v2.CenterCrop(24), v2.PILToTensor()])(image(*size)).numpy() / np.float32(255)
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (spec.mean, spec.std))
    np.testing.assert_allclose(Preprocess(spec, resize=32)(image(*size), "x"), (reference - mean) / std, atol=1e-6)


def test_channel_orders():
    picture = image(4, 4)
    rgb, bgr = (
        Preprocess(InputSpec((3, 4, 4), order, (0.0,) * 3, (1.0,) * 3))(picture, "x") for order in ("rgb", "bgr")
    )
    np.testing.assert_array_equal(rgb, bgr[::-1])
    gray = Preprocess(InputSpec((1, 4, 4), "gray", (0.0,), (1.0,)))(picture, "x")
    np.testing.assert_allclose(gray[0] * 255, np.asarray(picture.convert("L")), atol=1e-4)


def test_gray_and_palette_images_become_rgb():
    spec = InputSpec((3, 4, 4), "rgb", (0.0,) * 3, (1.0,) * 3)
    gray = image(4, 4).convert("L")
    planes = Preprocess(spec)(gray, "x")
    assert (planes == planes[:1]).all()
    Preprocess(spec)(image(4, 4).convert("P"), "x")
    Preprocess(spec)(image(4, 4).convert("RGBA"), "x")


def test_sixteen_bit_images_are_refused():
    deep = Image.fromarray(np.zeros((4, 4), np.uint16))
    with pytest.raises(DataError, match=r"deep\.png is not an 8-bit image"):
        Preprocess(InputSpec((3, 4, 4)))(deep, "deep.png")


def test_float_colour_for_a_gray_model_is_refused():
    with pytest.raises(DataError, match="has 3 channels but the model takes 1"):
        Preprocess(InputSpec((1, 4, 4), "gray", (0.5,), (0.5,)))(np.zeros((4, 4, 3), np.float32), "x")


def test_stretch_goes_straight_to_the_input():
    spec = InputSpec((3, 12, 20), "rgb", (0.0,) * 3, (1.0,) * 3)
    assert Preprocess(spec, stretch=True)(image(8, 8), "x").shape == (3, 12, 20)


def test_planes_are_not_made_up():
    spec = InputSpec((4, 4, 4), "planes", (0.5,) * 4, (0.5,) * 4)
    with pytest.raises(DataError, match=r"has 3 channels but the model takes 4 \| fix: .*data=npz"):
        Preprocess(spec)(image(4, 4), "x")
    with pytest.raises(DataError, match="has 1 channels but the model takes 4"):
        Preprocess(spec)(image(4, 4).convert("L"), "x")
    with pytest.raises(DataError, match="has no planes as they are"):
        Preprocess(InputSpec((3, 4, 4), "planes", (0.5,) * 3, (0.5,) * 3))(image(4, 4).convert("P"), "x")


@pytest.mark.parametrize(("order", "channels"), [("rgb", 4), ("bgr", 2), ("gray", 3), ("rgb", 1)])
def test_orders_have_their_channels(order, channels):
    with pytest.raises(ValueError, match=rf"does not fit {channels} input channel.*channel_order=.*planes"):
        InputSpec((channels, 4, 4), order, (0.5,) * channels, (0.5,) * channels)


@pytest.mark.parametrize("interpolation", KINDS)
def test_every_interpolation_equals_torchvisions(interpolation):
    spec = InputSpec((3, 24, 24), "rgb", (0.0,) * 3, (1.0,) * 3)
    resize = v2.Resize(32, interpolation=v2.InterpolationMode(interpolation))
    reference = v2.Compose([resize, v2.CenterCrop(24), v2.PILToTensor()])(image(60, 40)).numpy() / np.float32(255)
    preprocess = Preprocess(spec, resize=32, interpolation=interpolation)
    np.testing.assert_allclose(preprocess(image(60, 40), "x"), reference, atol=1e-6)


def test_another_interpolation_is_other_data():
    spec = InputSpec((3, 24, 24))
    told = {Preprocess(spec, 32, stretch, kind).describe() for stretch in (True, False) for kind in KINDS}
    assert len(told) == 6
    assert Preprocess(spec, resize=32).describe().startswith("resize 32 bilinear, centre crop; "), "known keys stay"


def test_the_users_interpolation_reaches_every_split(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 10, 10, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(40) % 4)
    options = {"file": tmp_path / "x.npz", "resize": 16, "calibration": 8, "validation": 8}
    spec = InputSpec((3, 16, 16))
    splits = {one: load_splits(NpzData(kind="npz", interpolation=one, **options), spec) for one in KINDS}
    assert [splits[kind].scaling for kind in KINDS] == [Scaling(16, kind) for kind in KINDS]
    first = {kind: next(one.calibration.batches(1)).images.tobytes() for kind, one in splits.items()}
    assert len(set(first.values())) == 3
