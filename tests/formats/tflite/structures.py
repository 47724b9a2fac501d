"""One small network for each structure that people's networks are made of, and what Coral's file of it has to be.

After public reports of peer tools: every one either converts to integers throughout and maps onto the Edge TPU, or is
refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from structure_parts import (
    Fn,
    alexnet,
    attention,
    between,
    conv,
    csp,
    decoder,
    dense,
    flat,
    focus,
    fpn,
    function,
    gated,
    inception,
    inception_of_two,
    lenet,
    lenet_tanh,
    normalized_inside,
    option_a,
    permuted_rows,
    residual,
    sequence,
    shuffle_unit,
    spatial_attention,
    sppf,
    two_heads_of_one_map,
    unet,
    vgg,
    yolov5,
    yolov8,
    yolox,
)
from torch import nn

__all__ = ["INTEGERS", "MAPPED", "STRUCTURES", "Structure"]

MAPPED = "mapped"
"""Integers throughout, every operator on the Edge TPU."""

INTEGERS = "integers"
"""Integers throughout; some operators stay on the CPU, as the published table says."""


@dataclass(frozen=True)
class Structure:
    """One network and its verdict.

    Attributes:
        build: makes it, for images `[3, 32, 32]`.
        verdict: `MAPPED`, `INTEGERS`, or the pattern that a refusal matches.
    """

    name: str
    build: Callable[[], nn.Module]
    verdict: str = MAPPED


T = nn.ConvTranspose2d
_NOT_INTEGER = r"needs a full-integer file"
_NO_FORM = r"LiteRT has no form|cannot convert|needs a full-integer file"

STRUCTURES = (
    # plain stacks
    Structure("conv_bn_relu", lambda: between(conv(16, 16))),
    Structure("conv_without_bias", lambda: between(nn.Conv2d(16, 16, 3, bias=False))),
    Structure("relu6", lambda: between(nn.Conv2d(16, 16, 3), nn.ReLU6())),
    Structure("kernel_5", lambda: between(conv(16, 16, 5))),
    Structure("kernel_1x7", lambda: between(nn.Conv2d(16, 16, (1, 7), padding=(0, 3)))),
    Structure("stride_3", lambda: between(nn.Conv2d(16, 16, 3, 3))),
    Structure("dilated", lambda: between(nn.Conv2d(16, 16, 3, padding=2, dilation=2))),
    Structure("depthwise", lambda: between(nn.Conv2d(16, 16, 3, padding=1, groups=16))),
    Structure("depthwise_dilated", lambda: between(nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16))),
    Structure("depthwise_multiplied", lambda: between(nn.Conv2d(16, 32, 3, padding=1, groups=16), channels=32)),
    Structure("grouped", lambda: between(nn.Conv2d(16, 16, 3, padding=1, groups=4))),
    Structure("separable", lambda: between(nn.Conv2d(16, 16, 3, padding=1, groups=16), conv(16, 24, 1), channels=24)),
    Structure("same_padding", lambda: between(nn.Conv2d(16, 16, 4, padding="same"))),
    Structure("asymmetric_pad", lambda: between(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(16, 16, 3, 2))),
    Structure("reflection_pad", lambda: between(nn.ReflectionPad2d(1), nn.Conv2d(16, 16, 3)), INTEGERS),
    Structure("replication_pad", lambda: between(nn.ReplicationPad2d(1), nn.Conv2d(16, 16, 3)), INTEGERS),
    # residuals and joins
    Structure("residual", lambda: between(residual(conv(16, 16)))),
    Structure("inverted_residual", lambda: between(residual(nn.Sequential(conv(16, 32, 1), conv(32, 16, 1))))),
    Structure("option_a", lambda: between(option_a(), channels=24)),
    Structure("option_a_stride_1", lambda: between(option_a(1), channels=24)),
    Structure("dense_block", lambda: between(dense())),
    Structure("inception", lambda: between(inception())),
    Structure("fire", lambda: between(conv(16, 4, 1), inception_of_two())),
    Structure("sppf", lambda: between(sppf())),
    Structure("csp", lambda: between(csp())),
    Structure("chunk", lambda: function(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1))),
    Structure("split_sizes", lambda: function(lambda x: torch.cat(x.split([4, 12], 1)[::-1], 1))),
    Structure("shuffle_unit", lambda: between(shuffle_unit())),
    Structure("channel_shuffle", lambda: between(nn.ChannelShuffle(4))),
    Structure("difference", lambda: between(Fn(lambda self, x: x - self.c(x), c=conv(16, 16)))),
    Structure("maximum", lambda: between(Fn(lambda self, x: torch.maximum(x, self.c(x)), c=conv(16, 16)))),
    Structure("product", lambda: between(Fn(lambda self, x: x * self.c(x), c=conv(16, 16)))),
    Structure("stack_mean", lambda: between(Fn(lambda self, x: (x + self.c(x)) * 0.5, c=conv(16, 16)))),
    # gates
    Structure("se_sigmoid", lambda: between(gated(nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1), nn.Sigmoid()))),
    Structure("se_hardsigmoid", lambda: between(gated(nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1), nn.Hardsigmoid()))),
    Structure("eca", attention),
    Structure("spatial_attention", spatial_attention),
    # activations
    Structure("silu", lambda: between(nn.Conv2d(16, 16, 3), nn.SiLU())),
    Structure("hardswish", lambda: between(nn.Conv2d(16, 16, 3), nn.Hardswish())),
    Structure("hardsigmoid", lambda: between(nn.Conv2d(16, 16, 3), nn.Hardsigmoid())),
    Structure("sigmoid", lambda: between(nn.Conv2d(16, 16, 3), nn.Sigmoid())),
    Structure("tanh", lambda: between(nn.Conv2d(16, 16, 3), nn.Tanh())),
    Structure("leaky_relu", lambda: between(nn.Conv2d(16, 16, 3), nn.LeakyReLU(0.1))),
    Structure("prelu", lambda: between(nn.Conv2d(16, 16, 3), nn.PReLU(16))),
    Structure("elu", lambda: between(nn.Conv2d(16, 16, 3), nn.ELU())),
    Structure("mish", lambda: between(nn.Conv2d(16, 16, 3), nn.Mish())),
    Structure("softplus", lambda: between(nn.Conv2d(16, 16, 3), nn.Softplus()), _NO_FORM),
    Structure("gelu", lambda: between(nn.Conv2d(16, 16, 3), nn.GELU()), r"no GELU.*layer '2' \(GELU\)"),
    Structure("square", lambda: function(lambda x: x**2)),
    Structure("clamp", lambda: function(lambda x: x.clamp(0, 1))),
    Structure("division", lambda: function(lambda x: x / 3.0)),
    # normalisations
    Structure("bn_before_conv", lambda: between(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3))),
    Structure("bn_behind_pool", lambda: between(nn.AvgPool2d(2), nn.BatchNorm2d(16))),
    Structure("bn_not_affine", lambda: between(nn.ReLU(), nn.BatchNorm2d(16, affine=False))),
    Structure("bn_1d", lambda: nn.Sequential(between(classes=12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5))),
    Structure("normalized_inside", normalized_inside),
    # pools
    Structure("max_pool_3", lambda: between(nn.MaxPool2d(3, 2, 1))),
    Structure("max_pool_ceil", lambda: between(nn.MaxPool2d(3, 2, ceil_mode=True))),
    Structure("avg_pool", lambda: between(nn.AvgPool2d(2))),
    Structure("avg_pool_padded", lambda: between(nn.AvgPool2d(3, 1, 1))),
    Structure("adaptive_avg_pool", lambda: between(nn.AdaptiveAvgPool2d(4))),
    Structure("adaptive_max_pool", lambda: between(nn.AdaptiveMaxPool2d(1)), _NO_FORM),
    Structure(
        "mean_of_rows", lambda: nn.Sequential(conv(3, 16, stride=2), Fn(lambda _, x: x.mean((2, 3))), nn.Linear(16, 5))
    ),
    # flat rows
    Structure("lenet", lenet),
    Structure("lenet_tanh", lenet_tanh),
    Structure("alexnet", alexnet),
    Structure("vgg", vgg),
    Structure("flatten_twice", two_heads_of_one_map),
    Structure("view_minus_one", lambda: flat(lambda x: x.view(-1, 512))),
    Structure("view_batch", lambda: flat(lambda x: x.view(x.size(0), -1))),
    Structure("view_three", lambda: flat(lambda x: x.view(x.shape[0], x.shape[1], -1).flatten(1))),
    Structure("reshape", lambda: flat(lambda x: x.reshape(x.shape[0], -1))),
    Structure("flatten_relu", lambda: flat(lambda x: (torch.flatten(x, 1)).relu())),
    Structure("flatten_permuted", lambda: flat(lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1))),
    Structure("flatten_pixels", lambda: flat(lambda x: x.flatten(2).transpose(1, 2).flatten(1))),
    Structure(
        "flatten_bn_1d",
        lambda: nn.Sequential(conv(3, 8, stride=4), nn.Flatten(), nn.BatchNorm1d(512), nn.Linear(512, 5)),
    ),
    Structure("softmax", lambda: nn.Sequential(between(), nn.Softmax(1))),
    Structure("log_softmax", lambda: nn.Sequential(between(), nn.LogSoftmax(1)), INTEGERS),
    # one dimension
    Structure("conv1d", lambda: sequence(nn.Conv1d(16, 16, 3, padding=1), nn.ReLU(), features=256)),
    Structure("conv1d_strided", lambda: sequence(nn.Conv1d(16, 16, 3, 2), nn.ReLU(), features=112)),
    Structure("conv1d_dilated", lambda: sequence(nn.Conv1d(16, 16, 3, padding=2, dilation=2), features=256), INTEGERS),
    Structure("conv1d_depthwise", lambda: sequence(nn.Conv1d(16, 16, 3, padding=1, groups=16), features=256)),
    Structure("conv1d_bn", lambda: sequence(nn.Conv1d(16, 16, 3), nn.BatchNorm1d(16), nn.ReLU(), features=224)),
    Structure("conv1d_pool", lambda: sequence(nn.Conv1d(16, 16, 3, padding=1), nn.MaxPool1d(2), features=128)),
    Structure("conv_transpose_1d", lambda: sequence(nn.ConvTranspose1d(16, 8, 4, 2, 1), features=256)),
    # larger maps
    Structure("pixel_shuffle", lambda: between(conv(16, 16, 1), nn.PixelShuffle(2), channels=4), INTEGERS),
    Structure("pixel_unshuffle", lambda: between(nn.PixelUnshuffle(2), channels=64), INTEGERS),
    Structure("bilinear", lambda: between(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))),
    Structure(
        "bilinear_half_pixel",
        lambda: between(nn.Upsample(scale_factor=2, mode="bilinear")),
    ),
    Structure("nearest", lambda: between(nn.Upsample(scale_factor=2))),
    Structure("nearest_size", lambda: between(nn.Upsample(size=(23, 40)))),
    Structure(
        "nearest_factor", lambda: between(nn.Upsample(scale_factor=1.7)), r"enlarges 16 to 27 .* by the factor 1\.7"
    ),
    Structure("fpn_join", lambda: fpn(lambda x: F.interpolate(x, scale_factor=2))),
    Structure("fpn_add", lambda: fpn(lambda x: F.interpolate(x, scale_factor=2), joined=False)),
    Structure("fpn_size", lambda: fpn(lambda x: F.interpolate(x, size=(8, 8)))),
    Structure("unet", unet),
    Structure("transposed_k2s2", lambda: decoder(T(16, 8, 2, 2))),
    Structure("transposed_k4s2p1", lambda: decoder(T(16, 8, 4, 2, 1), nn.ReLU(), T(8, 8, 4, 2, 1))),
    Structure("transposed_k3s2p1_output_padding", lambda: decoder(T(16, 8, 3, 2, 1, output_padding=1))),
    Structure("transposed_k3s3_output_padding_2", lambda: decoder(T(16, 8, 3, 3, output_padding=2))),
    Structure("transposed_k3s1p1", lambda: decoder(T(16, 8, 3, 1, 1))),
    Structure("transposed_k5s2p1", lambda: decoder(T(16, 8, 5, 2, 1))),
    Structure("transposed_dilated", lambda: decoder(T(16, 8, 3, 2, 1, dilation=2))),
    Structure("transposed_grouped", lambda: decoder(T(16, 8, 4, 2, 1, groups=2))),
    Structure("transposed_depthwise", lambda: decoder(T(16, 16, 4, 2, 1, groups=16, bias=False))),
    Structure("transposed_rectangular", lambda: decoder(T(16, 8, (4, 3), (2, 1), (1, 0)))),
    Structure("transposed_bn", lambda: decoder(T(16, 8, 2, 2, bias=False), nn.BatchNorm2d(8))),
    # heads of detectors
    Structure("ssd_head", lambda: nn.Sequential(conv(3, 16, stride=4), nn.Conv2d(16, 12, 1), permuted_rows(4))),
    Structure("yolov5_raw", lambda: yolov5(decode=False)),
    Structure("yolov5_decoded", lambda: yolov5(decode=True)),
    Structure("yolov8_raw", lambda: yolov8(decode=False)),
    Structure("yolov8_decoded", lambda: yolov8(decode=True), INTEGERS),
    Structure("yolox", yolox),
    Structure("focus", focus),
)
