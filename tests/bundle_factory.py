"""Small but complete bundles: a real ONNX network, its outputs computed here, packed by the real code."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from compress.config.schema import load_target
from compress.core.artifact import AS_STORED, Artifact, Format, InputSpec, Precision, Scaling
from compress.device.bundle import Content, write_bundle
from compress.support.files import sha256_file

SPEC = InputSpec((3, 8, 8))
CLASSES = tuple("abcd")


def onnx_network(path: Path, *, opset: int = 17, dynamic: bool = False, seed: int = 0) -> Path:
    """Conv 3x3 -> Relu -> GlobalAveragePool -> Flatten -> Gemm, random weights."""
    random = np.random.default_rng(seed)
    weights = {"w": random.normal(size=(8, 3, 3, 3)), "g": random.normal(size=(4, 8)), "b": random.normal(size=4)}
    batch = "n" if dynamic else 1
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "g", "b"], ["logits"], transB=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, *SPEC.shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(CLASSES)])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 6 if opset < 12 else 8
    onnx.save(model, path)
    return path


def tflite_network(path: Path) -> Path:
    """INT8 MAX_POOL_2D -> RESHAPE -> FULLY_CONNECTED, NHWC, random weights; written without the converter."""
    from compress.formats.tflite.flatbuffer import new_code, new_constant, pack, schema

    generated = schema()
    random = np.random.default_rng(0)
    model, graph = generated.ModelT(), generated.SubGraphT()
    model.version, model.buffers, model.operatorCodes, model.subgraphs = 3, [generated.BufferT()], [], [graph]
    graph.tensors, graph.operators = [], []

    def tensor(shape, constant=None, scale=0.05, kind="INT8"):
        entry = generated.TensorT()
        entry.name, entry.shape = f"t{len(graph.tensors)}".encode(), list(shape)
        entry.type = getattr(generated.TensorType, kind)
        entry.buffer = 0 if constant is None else new_constant(model, constant)
        entry.quantization = generated.QuantizationParametersT()
        entry.quantization.scale, entry.quantization.zeroPoint = [scale], [0]
        graph.tensors.append(entry)
        return len(graph.tensors) - 1

    def operator(kind, version, inputs, output, options, **fields):
        entry = generated.OperatorT()
        entry.opcodeIndex, entry.inputs, entry.outputs = new_code(model, kind, version), inputs, [output]
        entry.builtinOptionsType = getattr(generated.BuiltinOptions, options)
        entry.builtinOptions = getattr(generated, f"{options}T")()
        for name, value in fields.items():
            setattr(entry.builtinOptions, name, value)
        graph.operators.append(entry)

    channels, height, width = SPEC.shape
    given, pooled = tensor((1, height, width, channels)), tensor((1, height // 2, width // 2, channels))
    size = height // 2 * (width // 2) * channels
    flat, taken = tensor((1, size)), tensor((1, len(CLASSES)), scale=1.0)
    shape = tensor((2,), np.array([1, size], np.int32), kind="INT32")
    weight = tensor((len(CLASSES), size), random.integers(-127, 128, (len(CLASSES), size), np.int8), scale=0.01)
    bias = tensor((len(CLASSES),), np.zeros(len(CLASSES), np.int32), scale=0.05 * 0.01, kind="INT32")
    sides = {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2}
    operator("MAX_POOL_2D", 2, [given], pooled, "Pool2DOptions", padding=1, **sides)
    operator("RESHAPE", 1, [pooled, shape], flat, "ReshapeOptions", newShape=[1, size])
    operator("FULLY_CONNECTED", 4, [flat, weight, bias], taken, "FullyConnectedOptions")
    graph.inputs, graph.outputs = [given], [taken]
    path.write_bytes(pack(model))
    return path


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *SPEC.shape)).astype(np.float32)


def onnx_outputs(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"input": image[None]})[0] for image in inputs])


def make_bundle(
    folder: Path,
    *,
    target: str = "raspberry_pi_4",
    opset: int = 17,
    dynamic: bool = False,
    scaling: Scaling = AS_STORED,
) -> Path:
    """`folder/bundle` with one FP32 model `net`, for the given target."""
    folder.mkdir(parents=True, exist_ok=True)
    model = onnx_network(folder / "net.onnx", opset=opset, dynamic=dynamic)
    inputs = images()
    golden = folder / "golden.npz"
    np.savez_compressed(golden, inputs=inputs, labels=np.zeros(len(inputs), np.int64), net=onnx_outputs(model, inputs))
    artifact = Artifact(Format.ONNX, model, Precision.FP32, SPEC, dynamic_batch=dynamic, history=("net",))
    models, exact = {"net": artifact}, frozenset({"net"})
    content = Content(load_target(target, []), SPEC, CLASSES, models, golden, exact, scaling=scaling)
    write_bundle(content, folder / "bundle")
    return folder / "bundle"


def make_tflite_bundle(folder: Path, *, target: str = "coral") -> Path:
    """`folder/bundle` with an INT8 model `net`, and `tpu`, the same, which `tpu_compile.sh` compiles."""
    from compress.formats.edgetpu.compiler import Options
    from compress.formats.edgetpu.script import compile_script
    from compress.formats.tflite.runtime import open_file

    folder.mkdir(parents=True, exist_ok=True)
    net, tpu = tflite_network(folder / "net.tflite"), tflite_network(folder / "tpu.tflite")
    inputs, golden, script = images(), folder / "golden.npz", folder / "tpu_compile.sh"
    script.write_text(compile_script(tpu.name, sha256_file(tpu), Options(14, 1, 60)))
    logits = open_file(net, threads=1)(inputs)
    np.savez_compressed(golden, inputs=inputs, labels=np.zeros(len(inputs), np.int64), net=logits, tpu=logits)
    models = {
        "net": Artifact(Format.TFLITE, net, Precision.INT8, SPEC, dynamic_batch=False, history=("net",)),
        "tpu": Artifact(Format.EDGETPU, tpu, Precision.INT8, SPEC, False, ("net", "tpu"), attachments=(script,)),
    }
    exact = frozenset(models)
    write_bundle(Content(load_target(target, []), SPEC, CLASSES, models, golden, exact, (script,)), folder / "bundle")
    return folder / "bundle"


def first_commands(bundle: Path) -> list[str]:
    """The first block of code in a bundle's README, line by line."""
    lines = (bundle / "README.md").read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("    "))
    end = next(index for index in range(start, len(lines)) if not lines[index].startswith("    "))
    return [line.strip() for line in lines[start:end]]


def edit_manifest(bundle: Path, change) -> None:
    """Apply `change(document)` to the manifest, bringing the checksums of changed files up to date."""
    path = bundle / "manifest.json"
    document = json.loads(path.read_text())
    for record in document["files"]:
        record["sha256"] = sha256_file(bundle / record["path"])
    change(document)
    path.write_text(json.dumps(document))


@dataclass(frozen=True)
class AgentRun:
    code: int
    out: str
    err: str
    result: dict | None


def run_agent(bundle: Path, *arguments: str, python: str = sys.executable, environment=None) -> AgentRun:
    """The bundle's own benchmark.py in a process of its own."""
    result = bundle.parent / "result.json"
    done = subprocess.run(
        [python, str(bundle / "benchmark.py"), "--json", str(result), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
        cwd=bundle.parent,
    )
    return AgentRun(
        done.returncode, done.stdout, done.stderr, json.loads(result.read_text()) if result.exists() else None
    )


QUICK = ("--any-device", "--seconds", "0.3", "--threads", "1")
