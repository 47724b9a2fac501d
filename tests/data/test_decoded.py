"""Images are decoded once as far as there is room, and are the same as if they were decoded every time."""

from __future__ import annotations

import numpy as np
import pytest
from doubles import GRAY
from PIL import Image

from compress.core.artifact import InputSpec
from compress.data.decoded import Decoded
from compress.data.preprocess import Preprocess
from compress.data.source import ArraySource
from compress.data.splits import SampleSplit


def counted(images):
    read = []

    class Counted(ArraySource):
        def picture(self, index):
            read.append(index)
            return super().picture(index)

    return Counted(("a",), images, np.zeros(len(images), np.int64), "made up"), read


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_what_was_decoded_once_is_not_decoded_again_and_equals_it(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 8, 1), dtype=np.uint8)
    images = pixels if kind is np.uint8 else (pixels / 255).astype(np.float32)
    source, read = counted(images)
    split = SampleSplit("calibration", source, tuple(range(6)), Preprocess(GRAY))
    first, again = (np.concatenate([batch.images for batch in split.batches(4)]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert read == list(range(6))
    assert first.dtype == np.float32
    by_hand = (pixels[:, :8, :, 0].astype(np.float32) / np.float32(255) - np.float32(GRAY.mean[0])) / GRAY.std[0]
    np.testing.assert_allclose(first[:, 0], by_hand, rtol=1e-6, atol=1e-6)


def test_beyond_the_room_the_first_ones_stay():
    source, read = counted(np.zeros((4, 8, 8, 1), np.uint8))
    split = SampleSplit("evaluation", source, tuple(range(4)), Preprocess(GRAY), Decoded(most_bytes=2 * 64))
    for _ in range(2):
        list(split.batches(4))
    assert read == [0, 1, 2, 3, 2, 3]


def test_only_the_crop_is_kept():
    picture = Image.fromarray(np.zeros((40, 60), np.uint8))
    decoded = Decoded()
    preprocess = Preprocess(InputSpec((1, 8, 8), "gray", (0.5,), (0.5,)), resize=20)
    for _ in range(2):
        kept = decoded.pixels(0, lambda _: preprocess.pixels(picture, "a picture"))
    assert kept.dtype == np.uint8
    assert kept.base is None
    assert kept.nbytes == 64
