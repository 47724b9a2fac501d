"""Build one engine: every difference between TensorRT 8.0 and 11 is in this module."""

import hashlib
import os
import re
import time
from typing import Any, List, Sequence

from ..saving import write_file
from ..values import Json, Problem
from ..versions import missing_runtime
from .layers import count_precisions, layer_list
from .limits import ADD_SWAP
from .plans import Plan, builder_flags

# trtexec's default. The API's is 1: one disturbed timing then keeps a kernel that takes twice as long (measured:
# ResNet-18 at batch 1 on an H100, two builds of one file, 0.169 and 0.178 ms).
TIMING_ITERATIONS = 8
LOGS: List[Any] = []  # TensorRT keeps the first logger of a process for all that follows: it must live as long


def import_tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise missing_runtime("tensorrt", error, "it comes with JetPack: apt install python3-libnvinfer-dev")
    return tensorrt


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
    write_file(plan.engine, content)
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
        config.set_tactic_sources(tactic_sources(tensorrt, plan.tactics))
    if plan.calibration is not None:
        config.int8_calibrator = plan.calibration
    config.avg_timing_iterations = TIMING_ITERATIONS
    load_timing_cache(config, plan)
    add_profile(builder, network, config, plan)
    return config


def tactic_sources(tensorrt: Any, names: Sequence[str]) -> int:
    """The bits of these sources; `Problem` for one that this TensorRT does not have."""
    sources = getattr(tensorrt, "TacticSource", None)
    unknown = [name for name in names if not name.isupper() or not hasattr(sources, name)]
    if unknown:
        known = ", ".join(sorted(name for name in dir(sources) if name.isupper()))
        raise Problem("TensorRT %s has no tactic source %r" % (tensorrt.__version__, unknown[0]), "one of " + known, 2)
    return sum(1 << int(getattr(sources, name)) for name in set(names))


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
        write_file(str(plan.timing_cache), bytes(cache.serialize()))


def complaint(log: Any) -> str:
    """The first error: the ones after it follow from it. A missing driver is only warned of."""
    lines = log.errors[:1] or log.warnings[-1:] or ["no reason was given"]
    return " ".join(lines[0].split())[:300]


def advice(errors: Sequence[str]) -> str:
    text = " ".join(errors).lower()
    if "memory" in text or "alloc" in text:
        return "close other programs, lower --workspace-mib, or %s" % ADD_SWAP
    return "build with another --precision, or send the line above with this bundle's manifest"
