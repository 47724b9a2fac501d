"""Latency of a network that pads as TensorFlow does, in INT8, against the file that ONNX Runtime's own quantizer makes.

    python scripts/honesty_padding.py [--json PATH]

MobileNetV2 with random weights (latency does not depend on them), every convolution of stride 2 behind `F.pad`.
ONNX Runtime's tools fold the padding before they quantize (`quant_pre_process`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from bench_common import Bar, arguments, report
from bench_methods import PEER, ort_quantize, stage_context, torch_export
from onnxruntime.quantization.shape_inference import quant_pre_process
from pruning_bench.workshop import NoiseSplits
from torch import nn

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.measurement import LatencyRatio
from compress.measure.race import race
from compress.stages.export.to_onnx import ToOnnx
from compress.stages.prepare.fold_batchnorm import FoldBatchnorm
from compress.stages.quantize.ptq_static import PtqStatic

_INPUT = InputSpec((3, 224, 224))
_LIMIT = 1.03
_SECONDS = 20.0


class SamePadded(nn.Module):
    """A convolution of stride 2 with TensorFlow's SAME padding for even sizes: more below and on the right."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        conv.padding = (0, 0)
        self.conv = conv
        before, after = (conv.kernel_size[0] - 2) // 2, (conv.kernel_size[0] - 1) // 2
        self.pads = (before, after, before, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded: torch.Tensor = self.conv(F.pad(x, self.pads))
        return padded


def same_padded_mobilenet_v2() -> nn.Module:
    torch.manual_seed(0)
    module = torchvision.models.mobilenet_v2(num_classes=1000).eval()
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.Conv2d) and part.stride[0] == 2:
            module.set_submodule(name, SamePadded(part))
    return module


def race_padded(folder: Path) -> tuple[LatencyRatio, LatencyRatio]:
    """Our INT8 file over ONNX Runtime's own, and over the FP32 file."""
    splits = NoiseSplits()
    source = Artifact(Format.TORCH, same_padded_mobilenet_v2(), Precision.FP32, _INPUT)
    folded = FoldBatchnorm().run(source, stage_context("fold", splits, folder))
    fp32 = ToOnnx().run(folded, stage_context("fp32", splits, folder))
    quantized = PtqStatic(observer="min_max").run(folded, stage_context("ptq", splits, folder))
    ours = ToOnnx().run(quantized, stage_context("ours", splits, folder))
    exported, prepared, theirs = folder / "exported.onnx", folder / "prepared.onnx", folder / "theirs.onnx"
    torch_export(source, exported)
    quant_pre_process(str(exported), str(prepared))
    images = next(splits.calibration.batches(len(splits.calibration))).images
    ort_quantize(prepared, theirs, images, "MinMax")
    peer = Artifact(Format.ONNX, theirs, Precision.INT8, _INPUT, dynamic_batch=False)
    return race(ours, peer, threads=1, seconds=_SECONDS), race(ours, fp32, threads=1, seconds=_SECONDS)


def padding_bars() -> list[Bar]:
    with tempfile.TemporaryDirectory() as folder:
        peer, fp32 = race_padded(Path(folder))
    interval = f"<= {_LIMIT} (95 %: {peer.low:.3f} to {peer.high:.3f}, {peer.pairs} pairs)"
    gain = f"95 %: {fp32.low:.3f} to {fp32.high:.3f}, {fp32.pairs} pairs"
    return [
        Bar(f"SAME-padded MobileNetV2, INT8 latency over {PEER}", peer.ratio, "x", interval, peer.low <= _LIMIT),
        Bar("SAME-padded MobileNetV2, INT8 latency over FP32", fp32.ratio, "x", gain, None),
    ]


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0]).parse_args()
    report(padding_bars(), options.json)
