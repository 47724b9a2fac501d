"""Profiles: do the layers add up to the measured call, what does profiling cost, are bottleneck classes right.

    python scripts/bench_profile.py [--json PATH] [--networks A,B] [--threads N]

Networks have random weights (time does not depend on them), FP32 by this project's exporter and INT8 by ONNX Runtime's
own quantizer. The models of known bottleneck are made here.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import torch
import torchvision
from bench_common import Bar, arguments, at_least, at_most, report
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from rich.console import Console
from rich.table import Table

from compress.core.artifact import Format, InputSpec, Precision
from compress.formats.onnx import assemble
from compress.formats.onnx.opset import Ceiling
from compress.formats.tensorrt.runtime import unavailable
from compress.profile.analyze import profile
from compress.profile.bottleneck import Bottleneck
from compress.profile.document import Profile
from compress.profile.layer import Settings, Source
from compress.profile.readers import find_reader
from compress.profile.small_graphs import matrix_product, tiny_chain

NETWORKS = ("resnet18", "mobilenet_v2", "mobilenet_v3_small")
SPEC = InputSpec((3, 224, 224))


class RandomImages(CalibrationDataReader):
    """Two images, enough to have scales at all."""

    def __init__(self) -> None:
        self._left = iter(np.random.default_rng(0).standard_normal((2, 1, *SPEC.shape), dtype=np.float32))

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._left, None)
        return None if image is None else {"input": image}


def export(name: str, folder: Path) -> Iterator[tuple[str, Path, Precision]]:
    """The network as an FP32 and as an INT8 file."""
    import onnx_ir as ir

    torch.manual_seed(0)
    module = getattr(torchvision.models, name)(weights=None).eval()
    model = assemble.finish(assemble.from_module(module, SPEC, dynamic_batch=False), 17, Ceiling(17, "a bench"))
    fp32, int8 = folder / f"{name}.onnx", folder / f"{name}_int8.onnx"
    ir.save(model, fp32)
    yield f"{name} fp32", fp32, Precision.FP32
    quantize_static(fp32, int8, RandomImages(), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    yield f"{name} int8", int8, Precision.INT8


def elementwise_chain(elements: int = 4_000_000, length: int = 6) -> bytes:
    """Additions of tensors that no cache holds all of."""
    names = ["x", *(f"v{index}" for index in range(1, length)), "y"]
    nodes = [helper.make_node("Add", [before, "x"], [after], name=after) for before, after in itertools.pairwise(names)]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [elements]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", ports[:1], ports[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


def constructed(folder: Path) -> Iterator[tuple[str, Path, Bottleneck]]:
    """Models of one known bottleneck."""
    for name, content, kind in (
        ("large matrix product", matrix_product(1024, Precision.FP32), Bottleneck.COMPUTE),
        ("elementwise chain", elementwise_chain(), Bottleneck.BANDWIDTH),
        ("300 tiny operators", tiny_chain(300), Bottleneck.LAUNCH),
    ):
        path = folder / f"{name.replace(' ', '_')}.onnx"
        onnx.save(onnx.load_model_from_string(content), path)
        yield name, path, kind


def profiled(path: Path, precision: Precision, threads: int) -> Profile:
    settings = Settings(threads=threads, runs=200, seconds=6.0)
    return profile(Source(Format.ONNX, path, precision), find_reader(Format.ONNX), settings)[0]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS), help="of torchvision, separated by commas")
    parser.add_argument("--threads", type=int, default=1)
    options: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # the quantizer's advice
    bars: list[Bar] = []
    table = Table("model", "call ms", "layers ms", "sum/call", "profiling costs", "bottleneck", title="profiles")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network in options.networks.split(","):
            for title, path, precision in export(network, folder):
                found = profiled(path, precision, options.threads)
                add(table, title, found)
                gap = 100 * abs(found.model.sum_ms / found.model.measured_ms - 1)
                bars.append(at_most(f"{title}: sum of layers against the call", gap, 10, "% apart"))
        right = 0
        for title, path, kind in constructed(folder):
            found = profiled(path, Precision.FP32, options.threads)
            add(table, title, found)
            right += found.model.bottleneck is kind
    Console().print(table)
    bars.append(at_least("constructed models with the right class", right, 3, "of 3"))
    reason = unavailable() or "tests/profile builds and profiles an engine"
    bars.append(Bar(f"transfer bound model ({reason})", None, "", "transfer", None))
    report(bars, options.json)


def add(table: Table, title: str, found: Profile) -> None:
    model = found.model
    table.add_row(
        title,
        f"{model.measured_ms:.3f}",
        f"{model.sum_ms:.3f}",
        f"{model.sum_ms / model.measured_ms:.3f}",
        f"{model.profiling_overhead:+.0%}",
        str(model.bottleneck),
    )


if __name__ == "__main__":
    main()
