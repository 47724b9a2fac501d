#!/usr/bin/env python3
"""Build TensorRT engines from the ONNX files of this bundle, on the device they will run on; check them; race them.

    python3 build_engine.py [--models A,B] [--batch 1,1,1] [--dla-core 0] [--workspace-mib 256] [--json engines.json]
    python3 build_engine.py --onnx FILE [--precision fp16] [--engine FILE] ...

Engines move neither between GPUs nor between TensorRT versions, so this is where they are made. Needs numpy and the
`tensorrt` package of JetPack (8.0 to 11), Python 3.6 to 3.13, and benchmark.py beside it, which then times the engines.

Before anything is built: every file against its SHA-256, the TensorRT version, the GPU's compute capability, and free
memory. An INT8 file that this GPU cannot compute is not built, with the reason; the float file beside it is then built
in FP16. Where INT8 can be built, FP16 is built too and the faster one that computes what it should is recommended.

Exit codes: 0 all built; 1 an engine failed, or computes something else than it should; 2 cannot be used as asked.
"""

import os
import sys

# Python looks for modules beside the script first; of those, only benchmark.py is meant, and it removes the folder.
HERE = os.path.realpath(os.path.dirname(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != HERE]

# ruff: noqa: E402  what follows is looked for only after that
import argparse
import hashlib
import json
import re
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

sys.path.insert(0, HERE)
from benchmark import (
    Cuda,
    Json,
    Parser,
    Problem,
    TensorRtRunner,
    boot,
    compare,
    isolated,
    measure,
    missing_runtime,
    positive_seconds,
    read_golden,
    read_manifest,
    read_text,
    require_writable,
    saver,
    verify,
    version_numbers,
)

RESULT_SCHEMA = 1
MIB = 1 << 20
# What a build needs besides its workspace: CUDA context, TensorRT's own libraries and kernels. A Jetson Nano with 4 GB
# and a desktop running is where this bites.
BASE_MIB = 700
SMALLEST_WORKSPACE, LARGEST_WORKSPACE = 64 * MIB, 1024 * MIB
# onnx-tensorrt docs/operators.md by release: the newest opset that its parser reads. Others are asked, not refused.
NEWEST_OPSET = {(8, 0): 13, (8, 2): 13, (8, 5): 17, (8, 6): 17}
# trtexec's default. The API's is 1: one disturbed timing then keeps a kernel that takes twice as long (measured:
# ResNet-18 at batch 1 on an H100, two builds of one file, 0.169 and 0.178 ms).
TIMING_ITERATIONS = 8
FP16_TOLERANCE = {"sqnr_db": 20.0}  # of an engine in FP16 from a float file, as for FP16 files (compress.parity)


class Plan(NamedTuple):
    """One engine to build.

    `precision` is of the arithmetic: fp32, fp16 or int8 (int8 leaves the rest in FP16). `batch` is the smallest, the
    usual and the largest batch, for a file whose batch is free. `calibration` is a cache for implicit INT8, for files
    without Q/DQ. `sparse` lets the builder use 2:4 sparse kernels. `tactics` names the only libraries it may use.
    """

    onnx: str
    engine: str
    precision: str
    workspace: int
    batch: Tuple[int, int, int] = (1, 1, 1)
    dla_core: Optional[int] = None
    timing_cache: Optional[str] = None
    calibration: Any = None
    sparse: bool = False
    tactics: Tuple[str, ...] = ()


# --- building: every difference between TensorRT 8.0 and 11 is in this section ----------------------------------------


def import_tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise missing_runtime("tensorrt", error, "it comes with JetPack: apt install python3-libnvinfer-dev")
    return tensorrt


LOGS: List[Any] = []  # TensorRT keeps the first logger of a process for all that follows: it must live as long


def make_log(tensorrt: Any) -> Any:
    """A logger that keeps what the parser and the builder complain about, to be told once and in one line."""
    if LOGS:
        del LOGS[0].errors[:], LOGS[0].warnings[:]
        return LOGS[0]

    class Log(tensorrt.ILogger):
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)
            self.errors: List[str] = []
            self.warnings: List[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.ERROR, tensorrt.ILogger.INTERNAL_ERROR):
                self.errors.append(message.strip())
            elif severity == tensorrt.ILogger.WARNING:
                self.warnings.append(message.strip())

    LOGS.append(Log())
    return LOGS[0]


def build(tensorrt: Any, plan: Plan) -> Json:
    """Build one engine and write it; facts about it: seconds, bytes, layers. `Problem` says what stopped it."""
    started = time.time()
    log = make_log(tensorrt)
    tensorrt.init_libnvinfer_plugins(log, "")
    try:
        builder = tensorrt.Builder(log)
    except TypeError:  # what the bindings make of a builder that could not be created
        raise Problem("TensorRT cannot start: %s" % complaint(log), "check the CUDA driver: nvidia-smi, or tegrastats")
    network = builder.create_network(network_flags(tensorrt))
    parser = tensorrt.OnnxParser(network, log)  # keeps the weights alive: it must outlive the build
    parse(parser, plan.onnx, log)
    require_typed(tensorrt, network, plan)
    config = configure(tensorrt, builder, network, plan)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise Problem("%s was not built: %s" % (os.path.basename(plan.engine), complaint(log)), advice(log.errors))
    content = bytes(serialized)
    write(plan.engine, content)
    save_timing_cache(config, plan)
    layers = layer_list(tensorrt, content, log)
    return {
        "engine": os.path.basename(plan.engine),
        "precision": plan.precision,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "build_seconds": round(time.time() - started, 1),
        "layers": count_precisions(layers),
        "layer_list": layers,
    }


def network_flags(tensorrt: Any) -> int:
    """Explicit batch, where that is still a choice: TensorRT 10 made it the only one, 11 took the flag away."""
    flag = getattr(tensorrt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    return 0 if flag is None else 1 << int(flag)


def parse(parser: Any, path: str, log: Any) -> None:
    with open(path, "rb") as stream:
        content = stream.read()
    if parser.parse(content):
        return
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    reasons = [parser_reason(error) for error in found] or [complaint(log)]
    fix = "export with a lower opset, or leave that operator out of the network: the parser has no other way to run it"
    raise Problem("TensorRT's parser does not take %s: %s" % (os.path.basename(path), "; ".join(reasons[:3])), fix)


def parser_reason(error: Any) -> str:
    """Node, operator and reason. TensorRT before 10 names the operator in the text only."""
    text = " ".join(str(error.desc()).split())
    name = error.node_name() if hasattr(error, "node_name") else ""
    found = re.search(r"op(?:erator)?: ?(\w+)", text)
    operator = error.node_operator() if hasattr(error, "node_operator") else found.group(1) if found else ""
    return "node %s%s%s: %s" % (
        error.node(),
        " %s" % name if name else "",
        " (%s)" % operator if operator else "",
        text,
    )


def require_typed(tensorrt: Any, network: Any, plan: Plan) -> None:
    """TensorRT 11 takes the precision from the file alone: a float file stays float there, whatever is asked for."""
    if plan.precision != "fp16" or hasattr(tensorrt.BuilderFlag, "FP16"):
        return
    outputs = [network.get_layer(i).get_output(0) for i in range(network.num_layers)]
    if not any(output is not None and output.dtype == tensorrt.DataType.HALF for output in outputs):
        name = os.path.basename(plan.onnx)
        reason = "TensorRT %s takes the precision from the file, and %s has no FP16 in it" % (
            tensorrt.__version__,
            name,
        )
        raise Problem(reason, "export it with precision=fp16")


def configure(tensorrt: Any, builder: Any, network: Any, plan: Plan) -> Any:
    config = builder.create_builder_config()
    if hasattr(config, "set_memory_pool_limit"):  # since 8.4
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, plan.workspace)
    else:
        config.max_workspace_size = plan.workspace
    for name in builder_flags(plan):
        if hasattr(tensorrt.BuilderFlag, name):  # TensorRT 11: the graph alone says the precision
            config.set_flag(getattr(tensorrt.BuilderFlag, name))
    if plan.precision == "fp32" and hasattr(tensorrt.BuilderFlag, "TF32"):
        config.clear_flag(tensorrt.BuilderFlag.TF32)  # on by default since Ampere: 10 bits of mantissa are not FP32
    if plan.dla_core is not None:
        config.default_device_type = tensorrt.DeviceType.DLA
        config.DLA_core = plan.dla_core
    if hasattr(tensorrt, "ProfilingVerbosity"):  # since 8.2: names and precisions of the layers, for the report
        config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    if plan.tactics:
        config.set_tactic_sources(sum(1 << int(getattr(tensorrt.TacticSource, name)) for name in plan.tactics))
    if plan.calibration is not None:
        config.int8_calibrator = plan.calibration
    config.avg_timing_iterations = TIMING_ITERATIONS
    load_timing_cache(config, plan)
    add_profile(builder, network, config, plan)
    return config


def builder_flags(plan: Plan) -> List[str]:
    names = {"fp32": [], "fp16": ["FP16"], "int8": ["INT8", "FP16"]}[plan.precision]
    return names + ["SPARSE_WEIGHTS"] * plan.sparse + ["GPU_FALLBACK"] * (plan.dla_core is not None)


def add_profile(builder: Any, network: Any, config: Any, plan: Plan) -> None:
    """The range of batches, where the file leaves it free."""
    entry = network.get_input(0)
    shape = tuple(entry.shape)
    if shape[0] >= 0:
        if plan.batch != (1, 1, 1) and plan.batch != (shape[0],) * 3:
            reason = "%s has a fixed batch of %d" % (os.path.basename(plan.onnx), shape[0])
            raise Problem(reason, "export with dynamic_batch=true, or leave --batch away", 2)
        return
    profile = builder.create_optimization_profile()
    profile.set_shape(entry.name, *[(size,) + shape[1:] for size in plan.batch])
    config.add_optimization_profile(profile)
    if plan.calibration is not None:
        config.set_calibration_profile(profile)


def load_timing_cache(config: Any, plan: Plan) -> None:
    """Times of kernels measured by earlier builds on this very device and TensorRT; another one's is ignored by it."""
    if plan.timing_cache is None or not hasattr(config, "create_timing_cache"):
        return
    content = b""
    if os.path.exists(plan.timing_cache):
        with open(plan.timing_cache, "rb") as stream:
            content = stream.read()
    cache = config.create_timing_cache(content)
    config.set_timing_cache(cache, False)


def save_timing_cache(config: Any, plan: Plan) -> None:
    cache = config.get_timing_cache() if plan.timing_cache and hasattr(config, "get_timing_cache") else None
    if cache is not None:
        write(str(plan.timing_cache), bytes(cache.serialize()))


def layer_list(tensorrt: Any, content: bytes, log: Any) -> List[Json]:
    """Name, type and precision of every layer of an engine, by TensorRT's own inspector (since 8.2)."""
    engine = tensorrt.Runtime(log).deserialize_cuda_engine(content)
    if engine is None or not hasattr(engine, "create_engine_inspector"):
        return []
    text = engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON)
    found = [layer for layer in json.loads(text).get("Layers", []) if isinstance(layer, dict)]
    return [
        {
            "name": layer.get("Name", ""),
            "type": layer.get("LayerType", ""),
            "precision": layer_precision(layer),
            "tactic": layer.get("TacticName", ""),
        }
        for layer in found
    ]


def layer_precision(layer: Json) -> str:
    """By what the layer reads: formats are named like `Thirty-two wide channel vectorized row major Int8 format`."""
    formats = " ".join(str(entry.get("Format/Datatype", "")) for entry in layer.get("Inputs", [])[:1]).lower()
    for mark, precision in (("int8", "int8"), ("fp16", "fp16"), ("half", "fp16"), ("fp32", "fp32"), ("float", "fp32")):
        if mark in formats:
            return precision
    return "other"


def count_precisions(layers: Sequence[Json]) -> Dict[str, int]:
    """Number of layers by precision, data movement (`Reformat`, `NoOp`) counted apart."""
    counts: Dict[str, int] = {}
    for layer in layers:
        moves = layer["type"] in ("Reformat", "NoOp", "Shuffle", "Constant")
        key = "moving data" if moves else layer["precision"]
        counts[key] = counts.get(key, 0) + 1
    return counts


def complaint(log: Any) -> str:
    """The first error: the ones after it follow from it. A missing driver is only warned of."""
    lines = log.errors[:1] or log.warnings[-1:] or ["no reason was given"]
    return " ".join(lines[0].split())[:300]


def advice(errors: Sequence[str]) -> str:
    text = " ".join(errors).lower()
    if "memory" in text or "alloc" in text:
        return "close other programs, lower --workspace-mib, or %s" % ADD_SWAP
    return "build with another --precision, or send the line above with this bundle's manifest"


def write(path: str, content: bytes) -> None:
    """Whole or not at all."""
    with open(path + ".part", "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path + ".part", path)


# --- is this the right device? ----------------------------------------------------------------------------------------

ADD_SWAP = (
    "add swap: sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile "
    "&& sudo swapon /swapfile"
)


def require_version(tensorrt: Any, manifest: Json, any_device: bool) -> Optional[str]:
    """Refuse a parser that is too old for the files; a remark about any other difference."""
    found = version_numbers(tensorrt.__version__)
    newest = NEWEST_OPSET.get((found[0], found[1]))
    for model in manifest["models"]:
        if newest and (model.get("opset") or 0) > newest and not any_device:
            reason = "TensorRT %s reads ONNX up to opset %d, %s has %d" % (
                tensorrt.__version__,
                newest,
                model["path"],
                model["opset"],
            )
            raise Problem(reason, "export again with stage.%s.opset=%d" % (model["stage"], newest), 2)
    wanted = re.search(r"TensorRT (\d+(?:\.\d+)*)", manifest["device"]["runtime"])
    if wanted and version_numbers(wanted.group(1))[:2] != found[:2]:
        return "this bundle expects %s, here is TensorRT %s" % (manifest["device"]["runtime"], tensorrt.__version__)
    return None


def int8_refusal(capability: Sequence[int]) -> Optional[str]:
    """Why this GPU cannot multiply 8-bit integers (MathWorks datatypetensorrt); None if it can."""
    if tuple(capability) == (6, 1) or tuple(capability) >= (7, 0):
        return None
    return "INT8 needs compute capability 6.1 or at least 7.0, this GPU has %d.%d" % tuple(capability[:2])


def fp16_refusal(capability: Sequence[int]) -> Optional[str]:
    if tuple(capability) == (5, 3) or tuple(capability) >= (6, 0):
        return None
    return "FP16 needs compute capability 5.3 or at least 6.0, this GPU has %d.%d" % tuple(capability[:2])


def available_bytes() -> Optional[int]:
    """Memory that a build can take, swap included; None where the system does not tell."""
    text = read_text("/proc/meminfo") or ""
    found = [re.search(name + r":\s+(\d+) kB", text) for name in ("MemAvailable", "SwapFree")]
    return sum(int(match.group(1)) * 1024 for match in found if match) if found[0] else None


def choose_workspace(asked_mib: Optional[int], free: int) -> int:
    """A quarter of the free GPU memory, between 64 MiB and 1 GiB: a Jetson's is shared with everything else."""
    return asked_mib * MIB if asked_mib else max(SMALLEST_WORKSPACE, min(LARGEST_WORKSPACE, free // 4))


def require_memory(workspace: int, model_bytes: int) -> None:
    """The builder keeps the weights several times: as read, per precision tried, and in the engine."""
    needed, free = BASE_MIB * MIB + workspace + 4 * model_bytes, available_bytes()
    if free is not None and free < needed:
        reason = "building needs about %d MiB, %d MiB are free (swap included)" % (needed // MIB, free // MIB)
        raise Problem(reason, "close the desktop (sudo systemctl isolate multi-user.target), or %s" % ADD_SWAP, 2)


# --- plans ------------------------------------------------------------------------------------------------------------


def asked_for(folder: str, manifest: Json) -> Dict[str, Json]:
    """What the maker asked for, by ONNX file: the bundle's `*.plan.json`."""
    found = {}
    for record in manifest["files"]:
        if record["path"].endswith(".plan.json"):
            with open(os.path.join(folder, record["path"])) as stream:
                plan = json.load(stream)
            found[plan["onnx"]] = plan
    return found


def plans(folder: str, manifest: Json, options: argparse.Namespace, gpu: Json) -> List[Tuple[Json, Plan]]:
    """What to build: every chosen ONNX file in its own precision, and FP16 of the float files to race INT8 with.

    An option on the command line goes before what the maker's plan says.
    """
    models, planned = chosen(manifest, options.models), asked_for(folder, manifest)
    race = any(model["precision"] == "int8" for model in models)
    found = []
    for model in models:
        precisions = [options.precision or model["precision"]]
        if model["precision"] == "fp32" and race and not options.precision and not fp16_refusal(gpu["capability"]):
            precisions.append("fp16")
        for precision in precisions:
            path = os.path.join(folder, model["path"])
            mark = "" if precision == model["precision"] else "." + precision
            asked = planned.get(model["path"], {})
            batch = options.batch or tuple(asked.get("batch", (1, 1, 1)))
            dla_core = asked.get("dla_core") if options.dla_core is None else options.dla_core
            plan = Plan(
                onnx=path,
                engine=os.path.splitext(path)[0] + mark + ".engine",
                precision=precision,
                workspace=choose_workspace(options.workspace_mib or asked.get("workspace_mib"), gpu["free_bytes"]),
                batch=batch if model.get("dynamic_batch") else (1, 1, 1),
                dla_core=dla_core,
                timing_cache=os.path.join(folder, "timing.cache"),
                sparse=options.sparse or bool(asked.get("sparse")),
                tactics=tuple(options.tactics),
            )
            found.append((model, plan))
    return found


def chosen(manifest: Json, names: Optional[str]) -> List[Json]:
    models = [model for model in manifest["models"] if model["format"] == "onnx"]
    stages = [model["stage"] for model in models]
    for name in names.split(",") if names else []:
        if name not in stages:
            raise Problem("no ONNX file %r in this bundle; it has %s" % (name, ", ".join(stages)), code=2)
    return [model for model in models if not names or model["stage"] in names.split(",")]


def refusal(plan: Plan, gpu: Json) -> Optional[str]:
    """Why this GPU cannot compute the plan's precision."""
    rules = {"int8": int8_refusal, "fp16": fp16_refusal}
    return rules[plan.precision](gpu["capability"]) if plan.precision in rules else None


def trtexec(plan: Plan, version: str, input_name: str, sample: Sequence[int]) -> str:
    """The command of NVIDIA's own tool that builds the same engine."""
    workspace = plan.workspace // MIB
    parts = ["trtexec", "--onnx=%s" % os.path.basename(plan.onnx), "--saveEngine=%s" % os.path.basename(plan.engine)]
    parts += ["--%s" % flag.lower() for flag in ("INT8", "FP16") if flag in builder_flags(plan)]
    parts += ["--noTF32"] * (plan.precision == "fp32")
    old = version_numbers(version) < [8, 4]
    parts.append("--workspace=%d" % workspace if old else "--memPoolSize=workspace:%d" % workspace)
    if plan.batch != (1, 1, 1):
        shape = "x".join(str(size) for size in sample)
        names = ("--minShapes", "--optShapes", "--maxShapes")
        parts += ["%s=%s:%dx%s" % (name, input_name, size, shape) for name, size in zip(names, plan.batch)]
    if plan.dla_core is not None:
        parts += ["--useDLACore=%d" % plan.dla_core, "--allowGPUFallback"]
    return " ".join(parts + ["--sparsity=enable"] * plan.sparse)


# --- building, checking and racing ------------------------------------------------------------------------------------


def build_model(folder: str, manifest: Json, model: Json, plan: Plan, seconds: float) -> Json:
    """Build, compare with the golden outputs, time; runs in a process of its own."""
    tensorrt = import_tensorrt()
    require_memory(plan.workspace, os.path.getsize(plan.onnx))
    result = build(tensorrt, plan)
    runner = TensorRtRunner(plan.engine, model, 1)
    result["golden"] = check(runner, folder, manifest, model, plan)
    if result["golden"]["passed"]:
        sample = read_golden(folder, manifest, model)[0][:1]
        feed = runner.prepare(sample.repeat(runner.batch or runner.smallest, axis=0))
        result["latency"] = measure(runner.run, feed, seconds)
    return result


def check(runner: TensorRtRunner, folder: str, manifest: Json, model: Json, plan: Plan) -> Json:
    """Golden outputs are of the file in its own precision; FP16 arithmetic on a float file may differ as FP16 may."""
    import numpy

    inputs, expected = read_golden(folder, manifest, model)
    step = runner.batch or runner.largest
    rounds = -(-len(inputs) // step) * step
    padded = numpy.resize(inputs, (rounds,) + inputs.shape[1:])  # a fixed batch takes nothing less than a whole one
    parts = [numpy.array(runner.logits(padded[i : i + step])) for i in range(0, rounds, step)]
    limits = model["tolerance"]
    tolerance = limits.get("tensorrt") or limits["any"]
    if plan.precision == "fp16" and model["precision"] == "fp32":
        tolerance = FP16_TOLERANCE
    return compare(expected, numpy.concatenate(parts)[: len(inputs)], tolerance)


def recommend(engines: Sequence[Json]) -> Optional[Json]:
    """The fastest engine that computes what it should, and what it was faster than, in words."""
    right = [engine for engine in engines if not engine["problem"] and engine.get("latency")]
    if not right:
        return None
    ranked = sorted(right, key=lambda engine: engine["latency"]["median_ms"])
    best = ranked[0]
    text = ", ".join("%s %.3f ms" % (engine["engine"], engine["latency"]["median_ms"]) for engine in ranked)
    slower = [e for e in ranked if e["precision"] == "int8" and best["precision"] != "int8"]
    if slower:
        text += "; INT8 is slower here"
    return {"engine": best["engine"], "precision": best["precision"], "stage": best["stage"], "why": text}


def build_all(folder: str, manifest: Json, options: argparse.Namespace, report: Json, version: str) -> None:
    """Every plan in turn into `report`, saved after each."""
    save = saver(options.json)
    for model, plan in plans(folder, manifest, options, report["gpu"]):
        line = trtexec(plan, version, "input", model["sample_shape"])
        result = {"stage": model["stage"], "engine": os.path.basename(plan.engine), "precision": plan.precision}
        reason = refusal(plan, report["gpu"])
        print("%s: building in %s (minutes); the same with %s" % (model["path"], plan.precision, line), flush=True)
        try:
            if reason:
                raise Problem(reason, "the float file is built in FP16; see precision=fp16 of the project")
            result.update(isolated(lambda: build_model(folder, manifest, model, plan, options.seconds)))
            golden = result["golden"]
            result["problem"] = None if golden["passed"] else "golden outputs do not match: %s" % golden["reason"]
        except Problem as error:
            result["problem"] = str(error)
        result["trtexec"] = line
        report["engines"].append(result)
        print(row(result), flush=True)
        save(report)
    report["recommended"] = recommend(report["engines"])
    save(report)


def row(result: Json) -> str:
    if result["problem"]:
        return "  %s: NOT USED: %s" % (result["engine"], result["problem"])
    layers = ", ".join("%d %s" % (count, kind) for kind, count in sorted(result["layers"].items()))
    facts = (result["engine"], result["size_bytes"] / float(MIB), result["build_seconds"], layers or "not listed")
    return "  %s: %.1f MiB in %.0f s; layers: %s; %.3f ms" % (facts + (result["latency"]["median_ms"],))


# --- the program ------------------------------------------------------------------------------------------------------


def batches(text: str) -> Tuple[int, int, int]:
    values = [int(part) for part in text.split(",")]
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or min(values) < 1 or values != sorted(values):
        raise argparse.ArgumentTypeError("give one batch, or smallest,usual,largest like 1,8,32; got %r" % text)
    return values[0], values[1], values[2]


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = Parser(description="build the TensorRT engines of this bundle on this device")
    parser.add_argument("--bundle", default=os.path.dirname(os.path.abspath(__file__)), help="folder of the bundle")
    parser.add_argument("--models", metavar="A,B", help="only these stages; default: every ONNX file of the bundle")
    parser.add_argument("--onnx", metavar="FILE", help="build this file instead; outputs are not checked")
    parser.add_argument("--sha256", metavar="HEX", help="what FILE must be")
    parser.add_argument("--engine", metavar="FILE", help="with --onnx: where the engine goes; default: beside it")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), help="default: the file's own")
    parser.add_argument("--batch", type=batches, metavar="1,8,32", help="smallest,usual,largest")
    parser.add_argument("--workspace-mib", type=int, metavar="N", help="default: a quarter of the free memory")
    parser.add_argument("--dla-core", type=int, choices=(0, 1), help="run on this DLA (Xavier), the rest on the GPU")
    parser.add_argument("--sparse", action="store_true", help="allow kernels for 2:4 sparse weights (Ampere and later)")
    parser.add_argument("--tactics", action="append", default=[], metavar="NAME", help="only these tactic sources")
    parser.add_argument(
        "--seconds", type=positive_seconds, default=10.0, help="longest time for one latency; default 10"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results there as well")
    parser.add_argument("--any-device", action="store_true", help="try files that are too new for this TensorRT")
    options: argparse.Namespace = parser.parse_args(arguments)
    return options


def build_file(options: argparse.Namespace) -> int:
    """`--onnx`: one engine, no bundle."""
    if options.sha256:
        with open(options.onnx, "rb") as stream:
            if hashlib.sha256(stream.read()).hexdigest() != options.sha256:
                raise Problem(
                    "%s is not the file it should be (its SHA-256 differs)" % options.onnx, "copy it again", 2
                )
    tensorrt, gpu = import_tensorrt(), Cuda().describe()
    engine = options.engine or os.path.splitext(options.onnx)[0] + ".engine"
    plan = Plan(
        onnx=options.onnx,
        engine=engine,
        precision=options.precision or "fp16",
        workspace=choose_workspace(options.workspace_mib, gpu["free_bytes"]),
        batch=options.batch or (1, 1, 1),
        dla_core=options.dla_core,
        timing_cache=os.path.join(os.path.dirname(os.path.abspath(engine)), "timing.cache"),
        sparse=options.sparse,
        tactics=tuple(options.tactics),
    )
    reason = refusal(plan, gpu)
    if reason:
        raise Problem(reason, "--precision fp16 or fp32")
    require_memory(plan.workspace, os.path.getsize(plan.onnx))
    result = build(tensorrt, plan)
    result.update(gpu=gpu, tensorrt=tensorrt.__version__)
    if options.json:
        saver(options.json)(result)
    print("%s: %.1f MiB in %.0f s" % (plan.engine, result["size_bytes"] / float(MIB), result["build_seconds"]))
    return 0


def build_bundle(options: argparse.Namespace) -> int:
    """Verify, check, build, race; the exit code."""
    folder = os.path.abspath(options.bundle)
    manifest, digest = read_manifest(folder)
    verify(folder, manifest)
    if not chosen(manifest, options.models):
        raise Problem("this bundle has no ONNX file to build from", code=2)
    version = isolated(lambda: import_tensorrt().__version__)
    remark = require_version(import_tensorrt(), manifest, options.any_device)
    gpu = isolated(lambda: Cuda().describe())
    report = {
        "schema_version": RESULT_SCHEMA,
        "manifest_sha256": digest,
        "target": manifest["target"],
        "boot": boot(),
        "tensorrt": version,
        "gpu": gpu,
        "remark": remark,
        "engines": [],
        "recommended": None,
    }  # type: Json
    print("TensorRT %s on %s, compute capability %d.%d" % ((version, gpu["name"]) + tuple(gpu["capability"])))
    if remark:
        print("note: %s" % remark)
    build_all(folder, manifest, options, report, version)
    if report["recommended"]:
        print("recommended: %s (%s)" % (report["recommended"]["engine"], report["recommended"]["why"]))
    failed = [engine for engine in report["engines"] if engine["problem"] and not refused(engine, gpu)]
    return 1 if failed or not report["recommended"] else 0


def refused(engine: Json, gpu: Json) -> bool:
    """An engine that this GPU could never run is an answer, not a failure, when another one took its place."""
    return engine["precision"] == "int8" and int8_refusal(gpu["capability"]) is not None


def main(arguments: Optional[List[str]] = None) -> int:
    try:
        options = parse_arguments(arguments)
        require_writable(options.json)
        return build_file(options) if options.onnx else build_bundle(options)
    except Problem as error:
        print("error: %s" % error, file=sys.stderr)
        return int(error.code)
    except (OSError, IOError) as error:
        print("error: %s: %s" % (error.filename, error.strerror), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
