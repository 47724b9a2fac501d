"""Nearest upsampling: the rows that PyTorch shows, or a refusal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import StageError
from compress.formats.tflite.flatbuffer import pack
from compress.formats.tflite.nearest import check_nearest, correct_nearest
from compress.formats.tflite.specialize import batch_of_one
from compress.graph.capture import capture


def checked(module, size=(6, 7)):
    graph = capture(module.eval(), InputSpec((3, *size)))
    batch_of_one(graph)
    check_nearest(graph)


@pytest.mark.parametrize(
    "options", [{"scale_factor": 2}, {"size": (13, 9)}, {"scale_factor": (3, 1)}, {"scale_factor": 0.5}]
)
def test_sizes_at_which_both_show_the_same_rows(options):
    checked(nn.Upsample(**options), (6, 8))


def test_a_factor_that_the_sizes_do_not_say_is_refused_by_name():
    with pytest.raises(
        StageError, match=r"^1 enlarges 6 to 10 .* factor 1\.7; .* \| fix: F\.interpolate\(\.\.\., size="
    ) as error:
        checked(nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=1.7)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (5, 3), (4, 11)])
def test_the_file_shows_the_rows_that_torch_does(build, run_bytes, size):
    codes = np.random.default_rng(0).integers(-128, 128, (1, 4, 5, 2)).astype(np.int8)
    given, taken = build.tensor(codes.shape), build.tensor([1, *size, 2])
    options = "ResizeNearestNeighborOptions"
    build.operator("RESIZE_NEAREST_NEIGHBOR", 3, [given, build.integers(size)], [taken], options, halfPixelCenters=True)
    model = build.interface(given, taken)
    correct_nearest(model)
    wanted = F.interpolate(torch.from_numpy(codes.astype(np.float32)).permute(0, 3, 1, 2), size=size)
    np.testing.assert_array_equal(run_bytes(pack(model), codes), wanted.permute(0, 2, 3, 1).numpy())
