"""The roofline's estimates for the Raspberry Pi 4 against published measurements of six torchvision networks.

    python scripts/bench_estimates.py [--json PATH]

Published: ncnn, benchmark/README.md, Raspberry Pi 4 Model B at 1.8 GHz, 4 threads, FP32, mean of 10 runs. None of the
six was used to fit the estimate (compress/measure/estimate/roofline.py names those that were).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torchvision
from bench_common import Bar, arguments, at_least, at_most, report
from rich.console import Console
from rich.table import Table

from compress.config.schema import load_target
from compress.core.artifact import InputSpec, Precision
from compress.formats.onnx import assemble
from compress.formats.onnx.layers import read_layers
from compress.formats.onnx.opset import Ceiling
from compress.measure.estimate.roofline import BAND, estimate

PUBLISHED_MS = {
    "shufflenet_v2_x1_0": 24.56,
    "mobilenet_v3_large": 47.53,
    "mobilenet_v2": 61.88,
    "efficientnet_b0": 74.19,
    "resnet18": 123.12,
    "resnet50": 262.83,
}


def export(name: str, folder: Path) -> Path:
    """The network with random weights: time does not depend on them."""
    import onnx_ir as ir

    module = getattr(torchvision.models, name)(weights=None).eval()
    model = assemble.from_module(module, InputSpec((3, 224, 224)), dynamic_batch=False)
    path = folder / f"{name}.onnx"
    ir.save(assemble.finish(model, 17, Ceiling(17, "a bench")), path)
    return path


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    target = load_target("raspberry_pi_4", [])
    table = Table("network", "published ms", "estimate ms", "error", title="Raspberry Pi 4, FP32, 4 threads")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, published in PUBLISHED_MS.items():
            found[name] = estimate(name, read_layers(export(name, Path(folder))), Precision.FP32, target).ms
            table.add_row(
                name, f"{published:.1f}", f"{found[name]:.1f}", f"{100 * (found[name] / published - 1):+.0f} %"
            )
    Console().print(table)
    ranked = sorted(found, key=found.__getitem__)
    agree = sum(a == b for a, b in zip(ranked, PUBLISHED_MS, strict=True))
    worst = max(max(found[name] / ms, ms / found[name]) for name, ms in PUBLISHED_MS.items())
    bars: list[Bar] = [at_least("networks in their published place", agree, 6, "of 6")]
    bars.append(at_most("largest error factor, against the stated band", worst, BAND, "x"))
    report(bars, options.json)


if __name__ == "__main__":
    main()
