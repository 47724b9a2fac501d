"""TFLite files: full-integer coverage, accuracy, speed, cost of the conversion, and one file in several runtimes.

    python scripts/bench_tflite.py [--json PATH] [--data FOLDER] [--only coverage accuracy latency portability]
                                   [--tflite-runtime PYTHON] [--emulated COMMAND ...]

`--tflite-runtime` is the Python of a virtual environment with tflite-runtime 2.14 and numpy < 2:

    python3.11 -m venv /tmp/tflrt && /tmp/tflrt/bin/pip install tflite-runtime==2.14.0 'numpy<2'

`--emulated` (last) is how to start a Python for aarch64 that has ai-edge-litert, such as `/tmp/pi4/pi`. A bar whose
runtime is not given is reported as not measured. Every conversion runs in a process of its own, which tells its cost.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from bench_common import Bar, arguments, at_least, at_most, report
from bench_networks import QUIET, Net, load, nets
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.stage import Context, Splits
from compress.formats.tflite.check import Requirements, check_network
from compress.formats.tflite.network import Network, read_network
from compress.formats.tflite.runtime import open_file
from compress.measure.host import describe_host
from compress.measure.latency import paired_latency

console = Console()
NETWORKS = (
    "resnet18",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "shufflenet_v2_x1_0",
    "regnet_y_400mf",
    "densenet121",
)
SIZES = {"resnet18": 224, "mobilenet_v2": 224}
"""Image sizes; coverage does not depend on it, time and memory of the two that have such a bar do."""

PEER = "ai-edge-quantizer"
KERNELS = {"each one's default kernels": "AUTO", "built-in kernels": "BUILTIN_WITHOUT_DEFAULT_DELEGATES"}
"""By default LiteRT 2.3 runs INT8 in XNNPACK and tflite-runtime 2.14 does not; they round halves differently."""

_CHILD_THREADS = "1"

RUN_ELSEWHERE = """
import sys, numpy as np
try:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
except ImportError:
    from tflite_runtime.interpreter import Interpreter, OpResolverType
run = Interpreter(model_path=sys.argv[1], experimental_op_resolver_type=OpResolverType[sys.argv[4]])
run.allocate_tensors()
given, taken = run.get_input_details()[0]["index"], run.get_output_details()[0]["index"]
codes = np.load(sys.argv[2])
out = []
for code in codes:
    run.set_tensor(given, code[None])
    run.invoke()
    out.append(run.get_tensor(taken)[0])
np.save(sys.argv[3], np.stack(out))
"""
"""For any Python with either package; reads and writes the file's own integers."""


# --- in a process of its own: one network, one file -------------------------------------------------------------------


@dataclass(frozen=True)
class Converted:
    """What one conversion cost: CPU-seconds of the export stage alone, and the process's peak memory."""

    cpu_seconds: float
    peak_bytes: int
    transposes: int


def convert_torchvision(name: str, path: Path, precision: str) -> Converted:
    """Quantize (for `int8`) on random images and write the file; weights are random but alive."""
    import torch
    import torchvision

    from compress.formats.tflite.write import Form, tflite_bytes
    from compress.graph.capture import call_nodes
    from compress.graph.op_kind import OpKind
    from compress.graph.operators import kind_of
    from compress.quantization.observers import load_observer
    from compress.quantization.placement import Recipe
    from compress.quantization.policy import load_policy
    from compress.quantization.ptq import calibrate, convert, float_graph, prepare

    torch.manual_seed(0)
    size = SIZES.get(name, 64)
    spec, policy = InputSpec((3, size, size)), load_policy("litert")
    graph = float_graph(torchvision.models.get_model(name).eval(), spec, policy)
    if precision == "int8":
        prepared = prepare(graph, Recipe(policy, load_observer("min_max")))
        calibrate(prepared, [torch.randn(4, *spec.shape)])
        graph = convert(prepared)
    started = time.process_time()
    path.write_bytes(tflite_bytes(graph, spec, Form(), {}))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    own = [node for node in call_nodes(graph) if kind_of(node) is OpKind.TRANSPOSE]
    moving = sum(node.target is not torch.ops.aten.contiguous.default for node in own)
    return Converted(time.process_time() - started, peak, moving)


def in_child(*words: str) -> str:
    """Run this script with `--child words`; its last line, or an error's."""
    command = [sys.executable, __file__, "--child", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": _CHILD_THREADS}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip().splitlines()[-1]


def converted(name: str, folder: Path, precision: str = "int8") -> tuple[Path, Converted]:
    path = folder / f"{name}_{precision}.tflite"
    return path, Converted(**json.loads(in_child(name, str(path), precision)))


# --- coverage ---------------------------------------------------------------------------------------------------------


def bench_coverage(folder: Path) -> list[Bar]:
    table = Table(
        "network", "operators", "float", "TRANSPOSE (source)", "CPU s", "GB", title="full INT8, LiteRT policy"
    )
    found = []
    for name in NETWORKS:
        path, cost = converted(name, folder)
        network = read_network(path)
        violations = check_network(network, Requirements(full_integer=True))
        transposes = sum(operator.kind == "TRANSPOSE" for operator in network.operators)
        table.add_row(
            name,
            str(len(network.operators)),
            str(_float_tensors(network)),
            f"{transposes} ({cost.transposes})",
            f"{cost.cpu_seconds:.0f}",
            f"{cost.peak_bytes / 1e9:.2f}",
        )
        for violation in violations[:3]:
            console.print(f"{name}: {violation}")
        extra = max(0, transposes - cost.transposes)
        found.append(at_most(f"{name}: float tensors and extra TRANSPOSE", len(violations) + extra, 0, ""))
        if name == "mobilenet_v2":
            found.append(at_most("conversion of MobileNetV2", cost.cpu_seconds, 60, "CPU s"))
            found.append(at_most("conversion of MobileNetV2, peak memory", cost.peak_bytes / 1e9, 2, "GB"))
    console.print(table)
    return found


def _float_tensors(network: Network) -> int:
    return sum(tensor.is_float for tensor in network.tensors)


# --- accuracy ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """One file on the test images.

    Attributes:
        saturated: share of images whose largest logit is the largest integer the output has.
    """

    logits: NDArray[np.float32]
    top1: float
    saturated: float


def answers(path: Path, splits: Splits) -> Answers:
    output = read_network(path).outputs[0].quantization
    limit = None if output is None else (127 - output.zero_point[0]) * output.scale[0]
    run, logits, labels = open_file(path, threads=2), [], []
    for batch in splits.evaluation.batches(50):
        logits.append(run(batch.images))
        labels.append(batch.labels)
    found, right = np.concatenate(logits), np.concatenate(labels)
    top = found.max(1)
    saturated = 0.0 if limit is None else float((top >= limit * 0.9999).mean())
    return Answers(found, float((found.argmax(1) == right).mean()), saturated)


def _context(name: str, splits: Splits, folder: Path) -> Context:
    from compress.config.schema import load_target

    return Context(name, load_target("coral", []), splits, folder, 0, QUIET)


def int8_files(net: Net, source: Artifact, splits: Splits, folder: Path) -> tuple[Path, Path]:
    """The TFLite and the ONNX file of one INT8 graph."""
    from compress.config.schema import load_target
    from compress.stages.export.to_onnx import ToOnnx
    from compress.stages.export.to_tflite import ToTflite
    from compress.stages.quantize.ptq_static import PtqStatic

    context = _context("int8", splits, folder)
    quantized = PtqStatic.model_validate({"placement": "litert", **net.recovery}).run(source, context)
    onnx_context = Context("int8", load_target("raspberry_pi_4", []), splits, folder, 0, QUIET)
    return ToTflite(io="int8").run(quantized, context).path, ToOnnx().run(quantized, onnx_context).path


def float_file(source: Artifact, folder: Path) -> Path:
    from compress.formats.tflite.write import Form, tflite_bytes

    path = folder / "fp32.tflite"
    path.write_bytes(tflite_bytes(source.module, source.input, Form(), {}))
    return path


def peer_file(fp32: Path, splits: Splits, folder: Path) -> Path:
    """ai-edge-quantizer's default static INT8 of the same float file and calibration images."""
    from ai_edge_quantizer import quantizer, recipe

    images = np.concatenate([batch.images for batch in splits.calibration.batches(64)])
    made = quantizer.Quantizer(str(fp32), recipe.static_wi8_ai8())
    (key, name) = _signature(fp32)
    feeds = [{name: np.ascontiguousarray(image[None].transpose(0, 2, 3, 1))} for image in images]
    path = folder / "peer.tflite"
    made.quantize(made.calibrate({key: feeds})).export_model(str(path), overwrite=True)
    return path


def _signature(path: Path) -> tuple[str, str]:
    from ai_edge_litert.interpreter import Interpreter

    ((key, entry),) = Interpreter(model_path=str(path)).get_signature_list().items()
    return key, entry["inputs"][0]


def bench_accuracy(name: str, net: Net, data: Path, folder: Path) -> list[Bar]:
    from compress.formats import runtimes

    source, splits = load(net, data)
    int8, onnx = int8_files(net, source, splits, folder)
    fp32 = float_file(source, folder)
    files = {"FP32 TFLite": fp32, "ours, INT8 TFLite": int8, PEER: peer_file(fp32, splits, folder)}
    found = {method: answers(path, splits) for method, path in files.items()}
    run = runtimes.load(Artifact(Format.ONNX, onnx, Precision.INT8, net.input, False), threads=2)
    logits = np.concatenate([run(batch.images) for batch in splits.evaluation.batches(50)])
    reference, ours = found["FP32 TFLite"], found["ours, INT8 TFLite"]
    show(name, found, reference)
    with_onnx = 100 * float((ours.logits.argmax(1) == logits.argmax(1)).mean())
    saturated = at_most(f"{name}: top logit at the INT8 limit", 100 * ours.saturated, 1, "% of images")
    agreement = 100 * _agreement(ours, reference)
    if name == "mobilenet_v1":
        return [at_least(f"{name}: agreement with FP32", agreement, 92, "%"), saturated]
    return [
        at_most(f"{name}: accuracy lost against FP32", 100 * (reference.top1 - ours.top1), 0.6, "points"),
        at_least(f"{name}: agreement with our ONNX INT8", with_onnx, 99, "%"),
        saturated,
    ]


def _agreement(one: Answers, other: Answers) -> float:
    return float((one.logits.argmax(1) == other.logits.argmax(1)).mean())


def show(name: str, found: dict[str, Answers], reference: Answers) -> None:
    table = Table("file", "top-1 %", "agree %", "SQNR dB", "top logit at limit %", title=name)
    for method, row in found.items():
        noise = float(((row.logits - reference.logits) ** 2).sum())
        sqnr = 10 * np.log10(float((reference.logits**2).sum()) / noise) if noise else float("inf")
        table.add_row(
            method,
            f"{100 * row.top1:.1f}",
            f"{100 * _agreement(row, reference):.1f}",
            f"{sqnr:.1f}",
            f"{100 * row.saturated:.1f}",
        )
    console.print(table)


# --- latency and portability ------------------------------------------------------------------------------------------


def bench_latency(folder: Path) -> list[Bar]:
    int8, fp32 = (converted("resnet18", folder, precision)[0] for precision in ("int8", "fp32"))
    paired = paired_latency(
        open_file(int8, threads=1),
        open_file(fp32, threads=1),
        np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32),
        runs=100,
        warmup=5,
        seconds=30,
        threads=1,
        device=describe_host().label,
    )
    console.print(f"resnet18 INT8 {paired.first.median_ms:.1f} ms, FP32 {paired.second.median_ms:.1f} ms, one thread")
    return [at_most("resnet18: INT8 over FP32 latency (XNNPACK, 1 thread)", paired.ratio, 0.6, "x")]


def bench_portability(folder: Path, others: dict[str, Sequence[str] | None]) -> list[Bar]:
    path = folder / "resnet18_int8.tflite"
    if not path.exists():
        path, _ = converted("resnet18", folder)
    grid = read_network(path).inputs[0].quantization
    assert grid is not None
    # of the distribution the file was calibrated on: beyond it every layer saturates, and rounding shows as much
    images = np.random.default_rng(1).standard_normal((8, 224, 224, 3))
    codes = np.clip(np.rint(images / grid.scale[0]) + grid.zero_point[0], -128, 127).astype(np.int8)
    np.save(folder / "codes.npy", codes)
    bars = []
    for name, command in others.items():
        for kernels, resolver in KERNELS.items():
            what = f"resnet18 on {name} against ai-edge-litert here, {kernels}"
            if command is None:
                console.print(f"{what}: not measured, see --help")
                bars.append(at_most(what, None, 1, "LSB"))
                continue
            here = _run_elsewhere([sys.executable], path, folder, resolver)
            apart = np.abs(_run_elsewhere(command, path, folder, resolver).astype(int) - here.astype(int))
            console.print(f"{what}: {int((apart > 1).sum())} of {apart.size} logits more than 1 LSB apart")
            bars.append(at_most(what, float(apart.max()), 1, "LSB"))
    return bars


def _run_elsewhere(command: Sequence[str], path: Path, folder: Path, resolver: str) -> NDArray[np.int8]:
    script, result = folder / "run.py", folder / "logits.npy"
    script.write_text(RUN_ELSEWHERE)
    words = [*command, str(script), str(path), str(folder / "codes.npy"), str(result), resolver]
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    logits: NDArray[np.int8] = np.load(result)
    return logits


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parts = ("coverage", "accuracy", "latency", "portability")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--tflite-runtime", metavar="PYTHON", help="of an environment with tflite-runtime 2.14")
    parser.add_argument("--child", nargs=3, help="convert one network in this process (used by the bench itself)")
    parser.add_argument("--emulated", nargs="+", metavar="COMMAND", help="starts a Python for aarch64 with LiteRT")
    options = parser.parse_args()
    if options.child:
        name, path, precision = options.child
        print(json.dumps(asdict(convert_torchvision(name, Path(path), precision))))
        return
    found: list[Bar] = []
    folder = Path(tempfile.mkdtemp())
    try:
        if "coverage" in options.only:
            found += bench_coverage(folder)
        if "accuracy" in options.only:
            for name in ("resnet20", "mobilenet_v1"):
                found += bench_accuracy(name, nets(options.data.resolve())[name], options.data.resolve(), folder)
        if "latency" in options.only:
            found += bench_latency(folder)
        if "portability" in options.only:
            old = [options.tflite_runtime] if options.tflite_runtime else None
            found += bench_portability(folder, {"tflite-runtime": old, "emulated aarch64": options.emulated})
    finally:
        shutil.rmtree(folder)
    report(found, options.json)


if __name__ == "__main__":
    main()
