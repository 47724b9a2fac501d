#!/usr/bin/env python3
"""Check the models of this bundle on this device, then time them.

    python3 benchmark.py [--models A,B] [--threads 1,4] [--batch 1,8] [--seconds 30] [--json result.json]

Needs numpy and the runtime of the models (see requirements.txt); runs under Python 3.6 to 3.13, on its own: nothing
else of the project that made the bundle is on the device. This is one file on purpose, and written for the oldest
interpreter it meets (NVIDIA Jetson Nano: Python 3.6, numpy 1.13).

Every file is compared with its SHA-256 before anything is loaded, and every model's outputs with those of the machine
that made it before it is timed: a model that computes something else gets no number. Each model and thread count
runs in a process of its own, so memory is its own and a crash is an answer, not the end.

Exit codes: 0 all measured; 1 a model failed, or its outputs are wrong; 2 this bundle cannot be used here as asked.
"""

import os
import sys

# Python looks for modules beside the script first: a file of the bundle called numpy.py is not numpy.
HERE = os.path.realpath(os.path.dirname(__file__))
sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) != HERE]

# ruff: noqa: E402  what follows is looked for only after that
import argparse
import ctypes
import errno
import functools
import glob
import hashlib
import importlib.util
import json
import math
import platform
import re
import signal
import subprocess
import time
import traceback
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Json = Dict[str, Any]  # what json reads and writes

# ONNX Runtime's Linux wheels report usage to their maker unless told not to before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

RESULT_SCHEMA = 1
MANIFEST_SCHEMA = 1
MANIFEST = "manifest.json"
MS = 1000.0
WITHIN = 0.02  # stop when the 95 % interval of the median lies within 2 % of it
FEWEST_CALLS = 30
CHUNK_SECONDS = 0.25  # calls between two looks at the interval, the temperature and the power
NEGLIGIBLE = 1e-6  # a difference of logits that moves no softmax output by more than itself


class Problem(Exception):
    """One line for the user; `code` is the exit code."""

    def __init__(self, text: str, fix: Optional[str] = None, code: int = 1) -> None:
        Exception.__init__(self, "%s | fix: %s" % (text, fix) if fix else text)
        self.code = code


# --- the bundle -------------------------------------------------------------------------------------------------------


def read_manifest(folder: str) -> Tuple[Json, str]:
    """The manifest and the SHA-256 of its bytes; `Problem` unless every path in it stays inside the bundle."""
    path = os.path.join(folder, MANIFEST)
    try:
        with open(path, "rb") as stream:
            content = stream.read()
        manifest = json.loads(content.decode("utf-8"))
        version = manifest["schema_version"]
        files, models, golden = manifest["files"], manifest["models"], manifest["golden"]
        names = [record["path"] for record in files] + [model["path"] for model in models] + [golden["path"]]
        later = [model["compiled"] for model in models if model.get("compiled")]
    except (OSError, IOError) as error:
        raise Problem("cannot read %s: %s" % (path, error.strerror), "run this in the bundle's folder", 2)
    except (ValueError, KeyError, TypeError) as error:
        raise Problem("%s is not a bundle's manifest: %r" % (path, error), "copy the bundle again", 2)
    if version != MANIFEST_SCHEMA:
        raise Problem("the manifest has schema %s, this agent reads %d" % (version, MANIFEST_SCHEMA), code=2)
    for name in names + later:
        require_inside(folder, name)
    listed = set(record["path"] for record in files)
    for name in names:
        if name not in listed:
            raise Problem("the manifest has no checksum for %r" % name, "copy the bundle again", 2)
    return manifest, hashlib.sha256(content).hexdigest()


def require_inside(folder: str, name: object) -> None:
    """Refuse a path that is absolute, climbs out of `folder`, or leaves it through a link."""
    parts = name.replace("\\", "/").split("/") if isinstance(name, str) else [".."]
    root = os.path.realpath(folder)
    inside = os.path.realpath(os.path.join(root, *parts)).startswith(root + os.sep)
    if not name or parts[0] == "" or ".." in parts or ":" in parts[0] or not inside:
        raise Problem("the manifest names %r, which leaves the bundle" % (name,), "copy the bundle again", 2)


def verify(folder: str, manifest: Json) -> None:
    """Compare size and SHA-256 of every file in the manifest; `Problem` names the first that differs."""
    for record in manifest["files"]:
        path = os.path.join(folder, record["path"])
        digest = hashlib.sha256()
        try:
            with open(path, "rb") as stream:
                for chunk in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(chunk)
        except (OSError, IOError) as error:
            raise Problem("%s: %s" % (record["path"], error.strerror), "copy the bundle again", 2)
        if digest.hexdigest() != record["sha256"]:
            raise Problem(
                "%s is not the file the manifest names (its SHA-256 differs): nothing was loaded" % record["path"],
                "copy the bundle again",
                2,
            )


# --- the device -------------------------------------------------------------------------------------------------------


def read_text(path: str) -> Optional[str]:
    """A small file's text without trailing NUL and newline; None where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read(1 << 16).decode("utf-8", "replace").strip("\0\n ")
    except (OSError, IOError):
        return None


def read_number(path: str, scale: float = 1.0) -> Optional[float]:
    text = read_text(path)
    try:
        return None if text is None else float(text) / scale
    except ValueError:
        return None


def command_line(*command: str) -> Optional[str]:
    """First line that a system tool prints; None where it is absent or fails."""
    try:
        pipe = subprocess.PIPE
        done = subprocess.run(command, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def cpu_fields(root: str = "/") -> Dict[str, str]:
    """First value of every field of /proc/cpuinfo."""
    fields: Dict[str, str] = {}
    for line in (read_text(os.path.join(root, "proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields


def emulation() -> Optional[str]:
    """What imitates this CPU, or None. qemu-user shows the program it runs in /proc/self/exe, itself in thread-self."""
    try:
        executable = os.readlink("/proc/thread-self/exe")
    except OSError:
        executable = ""
    name = os.path.basename(executable)
    if name.startswith("qemu"):
        return "%s -cpu %s" % (name, os.environ.get("QEMU_CPU", "as given"))
    machine = "%s %s" % (read_text("/sys/class/dmi/id/sys_vendor"), read_text("/sys/class/dmi/id/product_name"))
    return "qemu-system" if "QEMU" in machine and "hypervisor" not in cpu_fields().get("flags", "hypervisor") else None


def describe_device(root: str = "/") -> Json:
    """Facts that do not change while measuring."""
    fields = cpu_fields(root)
    model = read_text(os.path.join(root, "proc/device-tree/model")) or fields.get("Model")
    flags = (fields.get("Features") or fields.get("flags") or "").split()
    memory = re.search(r"MemTotal:\s+(\d+) kB", read_text(os.path.join(root, "proc/meminfo")) or "")
    return {
        "model": model or fields.get("model name") or platform.machine(),
        "cpu": fields.get("model name") or fields.get("CPU part") or platform.machine(),
        "architecture": platform.machine(),
        "cpu_flags": flags,
        "virtual_machine": "hypervisor" in flags,
        "emulated": emulation(),
        "cores": cores(),
        "memory_bytes": int(memory.group(1)) * 1024 if memory else None,
        "system": "%s %s" % (platform.system(), platform.release()),
        "python": platform.python_version(),
        "l4t": read_text(os.path.join(root, "etc/nv_tegra_release")),
        "power_mode": command_line("nvpmodel", "-q"),
    }


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_state(root: str = "/") -> Json:
    """Clocks, temperature, throttling and power right now; what the device does not tell is absent or None."""
    cpus = sorted(glob.glob(os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq")))
    zones = glob.glob(os.path.join(root, "sys/class/thermal/thermal_zone*/temp"))
    temperatures = [value for value in (read_number(zone, 1000.0) for zone in zones) if value is not None]
    return {
        "governor": read_text(os.path.join(cpus[0], "scaling_governor")) if cpus else None,
        "clocks_mhz": [read_number(os.path.join(cpu, "scaling_cur_freq"), 1000.0) for cpu in cpus],
        "celsius": max(temperatures) if temperatures else None,
        "throttled": throttled(command_line("vcgencmd", "get_throttled")),
        "watts": watts(root),
        "load": os.getloadavg()[0],
    }


def throttled(line: Optional[str]) -> Optional[List[str]]:
    """Flags of `vcgencmd get_throttled` (raspberrypi.com/documentation, vcgencmd): now, and since boot."""
    if line is None or "0x" not in line:
        return None
    bits = int(line.split("0x")[1], 16)
    names = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
    now = [name for bit, name in enumerate(names) if bits >> bit & 1]
    return now + ["%s since boot" % name for bit, name in enumerate(names) if bits >> (bit + 16) & 1]


def watts(root: str = "/") -> Optional[Dict[str, Optional[float]]]:
    """Watts by rail from INA3221 monitors (Jetson): mW files of the older driver, mV x mA of hwmon; or None."""
    rails: Dict[str, Optional[float]] = {}
    for path in glob.glob(os.path.join(root, "sys/bus/i2c/drivers/ina3221x/*/iio:device*/in_power*_input")):
        label = read_text(path.replace("in_power", "rail_name_").replace("_input", "")) or os.path.basename(path)
        rails[label] = read_number(path, 1e3)
    for chip in glob.glob(os.path.join(root, "sys/class/hwmon/hwmon*")):
        if read_text(os.path.join(chip, "name")) != "ina3221":
            continue
        for label in glob.glob(os.path.join(chip, "in*_label")):
            number = os.path.basename(label)[len("in") : -len("_label")]
            volts = read_number(os.path.join(chip, "in%s_input" % number), 1e3)
            amperes = read_number(os.path.join(chip, "curr%s_input" % number), 1e3)
            if volts is not None and amperes is not None:
                rails[read_text(label) or number] = volts * amperes
    return rails or None


def require_device(manifest: Json, device: Json, any_device: bool) -> None:
    """Refuse another architecture: the pinned requirements and the numbers would be another device's."""
    wanted = manifest["device"]["architecture"]
    if device["architecture"] != wanted and not any_device:
        raise Problem(
            "this bundle is for %s (%s), this machine is %s" % (manifest["target"], wanted, device["architecture"]),
            "make a bundle for this device, or --any-device to run it here anyway",
            2,
        )


def require_flags(model: Json, device: Json) -> None:
    """Answer in words where the CPU would answer with SIGILL."""
    needed = model.get("cpu_flags", {}).get(device["architecture"], [])
    missing = [flag for flag in needed if device["cpu_flags"] and flag not in device["cpu_flags"]]
    if missing:
        raise Problem(
            "%s needs the CPU feature %s, which %s lacks" % (model["path"], ", ".join(missing), device["model"]),
            "export this model for a CPU without it",
        )


# --- runtimes: a runner has name, family, batch (None: any), prepare, run and logits ----------------------------------


INSTALL = "pip install -r requirements.txt"


def missing_runtime(package: str, error: object, install: Optional[str] = None) -> Problem:
    return Problem("%s cannot be imported: %s" % (package, error), install or INSTALL)


def require_version(version: str, family: str, model: Json) -> None:
    """Refuse a runtime older than the model needs, in words instead of a parser's."""
    oldest = model.get("needs", {}).get(family)
    if oldest and version_numbers(version) < version_numbers(oldest):
        raise Problem(
            "%s %s is too old for opset %s of %s: %s reads it"
            % (family, version, model.get("opset"), model["path"], oldest),
            "pip install -r requirements.txt, or export with a lower opset",
        )


def version_numbers(version: str) -> List[int]:
    """`1.10.0+cu1` as `[1, 10, 0]`."""
    return [int(part) for part in re.match(r"[\d.]*", version).group().split(".") if part]  # type: ignore[union-attr]


class OnnxRunner(object):
    """ONNX Runtime, CPU kernels."""

    family = "onnxruntime"

    def __init__(self, path: str, model: Json, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_runtime("onnxruntime", error)
        self.name = "onnxruntime " + onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        require_version(onnxruntime.__version__, self.family, model)
        try:
            try:
                self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            except TypeError:  # before 1.3 there was no such argument
                self.session = onnxruntime.InferenceSession(path, options)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise self.refused(model, error)
        entry = self.session.get_inputs()[0]
        self.input, self.type = entry.name, {"tensor(float16)": "float16"}.get(entry.type, "float32")
        self.batch = entry.shape[0] if isinstance(entry.shape[0], int) else None
        self.call = functools.partial(self.session.run, None)  # what is timed: no Python of ours around it

    def refused(self, model: Json, error: Exception) -> Problem:
        text = str(error).strip().splitlines()[0]
        if "opset" in text.lower() or "ir_version" in text.lower() or "IR version" in text:
            text = "%s is too old for opset %s: %s" % (self.name, model.get("opset"), text)
            return Problem(text, "install the version in requirements.txt, or export with a lower opset")
        return Problem("%s cannot load %s: %s" % (self.name, model["path"], text))

    def prepare(self, images: "Array") -> Any:
        return {self.input: images.astype(self.type)}

    def run(self, feed: Any) -> Any:
        return self.session.run(None, feed)[0]

    def logits(self, images: "Array") -> "Array":
        outputs: Array = self.run(self.prepare(images)).astype("float32")
        return outputs


def holds_edgetpu_code(path: str) -> bool:
    """Whether the Edge TPU compiler mapped something of a file: its one operator has this name."""
    with open(path, "rb") as stream:
        return b"edgetpu-custom-op" in stream.read()


class LiteRtRunner(object):
    """LiteRT / TensorFlow Lite on the CPU (XNNPACK), or on an Edge TPU when the file was compiled for one."""

    family = "litert"

    def __init__(self, path: str, model: Json, threads: int) -> None:
        self.family = "edgetpu" if holds_edgetpu_code(path) else "litert"
        try:
            self.interpreter, self.name = (edgetpu if self.family == "edgetpu" else litert)(path, threads)
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise Problem("cannot load %s: %s" % (model["path"], str(error).strip().splitlines()[0]))
        (self.input,), (self.output,) = (
            self.interpreter.get_input_details()[:1],
            self.interpreter.get_output_details()[:1],
        )
        self.batch = int(self.input["shape"][0])
        sizes = tuple(int(size) for size in self.input["shape"])
        sample = tuple(model.get("sample_shape") or ())
        self.channels_last = len(sizes) == 4 and sizes[1:] != sample

    def prepare(self, images: "Array") -> Any:
        """Images [N, C, H, W] in the layout and type of the model."""
        import numpy

        values = images.transpose(0, 2, 3, 1) if self.channels_last else images
        scale, zero_point = self.input["quantization"]
        if self.input["dtype"] in (numpy.int8, numpy.uint8) and scale:
            limits = numpy.iinfo(self.input["dtype"])
            values = numpy.clip(numpy.round(values / scale) + zero_point, limits.min, limits.max)
        return numpy.ascontiguousarray(values.astype(self.input["dtype"]))

    def run(self, feed: Any) -> Any:
        self.interpreter.set_tensor(self.input["index"], feed)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.output["index"])

    def logits(self, images: "Array") -> "Array":
        values: Array = self.run(self.prepare(images)).astype("float32")
        scale, zero_point = self.output["quantization"]
        return (values - zero_point) * scale if scale else values


class EdgeTpuRunner(LiteRtRunner):
    """A compiled file on an Edge TPU; one that nothing was mapped of is not timed under this name."""

    family = "edgetpu"

    def __init__(self, path: str, model: Json, threads: int) -> None:
        if not holds_edgetpu_code(path):
            reason = "%s holds nothing that runs on an Edge TPU" % os.path.basename(path)
            raise Problem(reason, "compile it: edgetpu_compiler on x86-64 Linux")
        LiteRtRunner.__init__(self, path, model, threads)


def litert(path: str, threads: int) -> Tuple[Any, str]:
    """An interpreter from whichever package the device has, newest first."""
    for package in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow.lite"):
        try:
            module = __import__(package, fromlist=["Interpreter"])
        except ImportError:
            continue
        root = sys.modules[package.split(".")[0]]
        version = getattr(root, "__version__", None) or package_version(package.split(".")[0])
        return module.Interpreter(path, num_threads=threads), "%s %s" % (package.split(".")[0], version)
    raise missing_runtime("a LiteRT interpreter", "neither ai_edge_litert nor tflite_runtime nor tensorflow is there")


def package_version(package: str) -> str:
    """Version of an installed package, for modules that do not say; importlib.metadata is absent before Python 3.8."""
    found = [name for folder in sys.path for name in glob.glob(os.path.join(folder, package + "-*.dist-info"))]
    return os.path.basename(found[0]).split("-")[1] if found else "(version unknown)"


def edgetpu(path: str, threads: int) -> Tuple[Any, str]:
    """An interpreter on the Edge TPU: through pycoral, or the delegate it is made of (coral.ai/docs/edgetpu)."""
    fix = "install libedgetpu1-std from the Coral repository and plug the accelerator in"
    try:
        try:
            from pycoral.utils.edgetpu import make_interpreter

            return make_interpreter(path), "edgetpu (pycoral %s)" % package_version("pycoral")
        except ImportError:
            try:
                from tflite_runtime.interpreter import Interpreter, load_delegate
            except ImportError:
                from ai_edge_litert.interpreter import Interpreter, load_delegate
            delegate = load_delegate("libedgetpu.so.1")
            return Interpreter(path, experimental_delegates=[delegate]), "edgetpu (libedgetpu.so.1)"
    except ImportError as error:
        raise missing_runtime("pycoral or a LiteRT interpreter", error)
    except (ValueError, OSError) as error:
        raise Problem("no Edge TPU answers: %s" % (str(error).strip().splitlines() or ["libedgetpu.so.1"])[0], fix)


class TorchScriptRunner(object):
    """PyTorch's TorchScript interpreter."""

    family = "torchscript"

    def __init__(self, path: str, model: Json, threads: int) -> None:
        try:
            import torch
        except ImportError as error:
            raise missing_runtime("torch", error)
        self.torch, self.name = torch, "torch " + torch.__version__
        if platform.machine() == "aarch64":
            torch.backends.quantized.engine = "qnnpack"
        torch.set_num_threads(threads)
        try:
            self.module = torch.jit.load(path, map_location="cpu").eval()
        except RuntimeError as error:
            raise Problem("%s cannot load %s: %s" % (self.name, model["path"], str(error).strip().splitlines()[0]))
        self.batch = None if model.get("dynamic_batch") else 1

    def prepare(self, images: "Array") -> Any:
        return self.torch.from_numpy(images)

    def run(self, feed: Any) -> Any:
        with self.torch.no_grad():
            return self.module(feed)

    def logits(self, images: "Array") -> "Array":
        outputs: Array = self.run(self.prepare(images)).float().numpy()
        return outputs


# tensorrt.nptype of TensorRT 8 asks numpy for names that numpy 1.24 took away
TENSOR_TYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64"}


class TensorRtRunner(object):
    """A TensorRT engine, built on this device: engines move neither between GPUs nor between TensorRT versions."""

    family = "tensorrt"

    def __init__(self, path: str, model: Json, threads: int) -> None:
        try:
            import tensorrt
        except ImportError as error:
            raise missing_runtime("tensorrt", error, "it comes with JetPack: apt install python3-libnvinfer")
        import numpy

        self.numpy, self.name = numpy, "tensorrt " + tensorrt.__version__
        self.cuda = Cuda()
        with open(path, "rb") as stream:
            content = stream.read()
        self.engine = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(content)
        if self.engine is None:
            reason = "%s cannot load %s: it is damaged, or of another TensorRT or GPU" % (self.name, path)
            raise Problem(reason, "python3 build_engine.py builds it on this device")
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise Problem("too little GPU memory to run %s" % path, "close other programs, or add swap")
        self.named = hasattr(self.engine, "num_io_tensors")
        entries = self.tensors(tensorrt)
        self.input = next(entry for entry in entries if entry[2])
        self.output = next(entry for entry in entries if not entry[2])
        self.smallest, self.largest = self.batches()
        self.batch = self.largest if self.smallest == self.largest else None
        shapes = [(self.largest,) + tuple(entry[1][1:]) for entry in (self.input, self.output)]
        self.types = [numpy.dtype(TENSOR_TYPES[entry[3].name]) for entry in (self.input, self.output)]
        self.result = numpy.empty(shapes[1], self.types[1])
        self.addresses = [self.cuda.allocate(numpy.zeros(s, t).nbytes) for s, t in zip(shapes, self.types)]
        if self.named:
            for entry, address in zip((self.input, self.output), self.addresses):
                self.context.set_tensor_address(entry[0], address)

    def tensors(self, tensorrt: Any) -> List[Tuple[Any, Tuple[int, ...], bool, Any]]:
        """`(name, shape, is_input, type)` of every tensor; TensorRT 8.5 renamed bindings, 10 removed the old names."""
        engine = self.engine
        if self.named:
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            inputs = [engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT for name in names]
            return [
                (name, tuple(engine.get_tensor_shape(name)), is_input, engine.get_tensor_dtype(name))
                for name, is_input in zip(names, inputs)
            ]
        return [
            (i, tuple(engine.get_binding_shape(i)), engine.binding_is_input(i), engine.get_binding_dtype(i))
            for i in range(engine.num_bindings)
        ]

    def batches(self) -> Tuple[int, int]:
        """Smallest and largest batch that the engine's profile takes."""
        key, shape = self.input[:2]
        if shape[0] > 0:
            return shape[0], shape[0]
        engine = self.engine
        low, _, high = engine.get_tensor_profile_shape(key, 0) if self.named else engine.get_profile_shape(0, key)
        return low[0], high[0]

    def prepare(self, images: "Array") -> Any:
        if not self.smallest <= len(images) <= self.largest:
            reason = "batch %d is outside the engine's profile, %d to %d" % (len(images), self.smallest, self.largest)
            raise Problem(reason, "python3 build_engine.py --batch 1,%d,%d" % (len(images), len(images)))
        return self.numpy.ascontiguousarray(images.astype(self.types[0]))

    def set_shape(self, shape: Tuple[int, ...]) -> None:
        """An engine with a free batch is told each time it changes."""
        if self.input[1][0] < 0:
            (self.context.set_input_shape if self.named else self.context.set_binding_shape)(self.input[0], shape)

    def run(self, feed: Any) -> Any:
        self.set_shape(feed.shape)
        self.cuda.upload(self.addresses[0], feed)
        self.execute()
        self.cuda.download(self.result, self.addresses[1])
        return self.result[: len(feed)]

    def execute(self) -> None:
        if self.named:
            self.context.execute_async_v3(0)
        else:
            order = sorted(zip((self.input[0], self.output[0]), self.addresses))
            self.context.execute_v2([address for _, address in order])

    def logits(self, images: "Array") -> "Array":
        outputs: Array = self.run(self.prepare(images)).astype("float32")
        return outputs


class Cuda(object):
    """The few calls of the CUDA driver that are needed, so that no further package is; every GPU's driver has them."""

    MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*, cuda.h
    OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY

    def __init__(self) -> None:
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise Problem("there is no CUDA driver here: %s" % error, "run this on the device itself")
        self.device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(self.device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)  # the one that TensorRT uses
        self.call("cuCtxSetCurrent", context)

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self.library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self.library.cuGetErrorString(code, ctypes.byref(text))
            said = (text.value or b"unknown").decode("ascii", "replace")
            fix = "close other programs on the GPU" if code == self.OUT_OF_MEMORY else None
            raise Problem("the CUDA driver answers %s with error %d: %s" % (name, code, said), fix)

    def describe(self) -> Json:
        """Name, compute capability and memory of the GPU."""
        name, numbers = ctypes.create_string_buffer(128), []
        self.call("cuDeviceGetName", name, len(name), self.device)
        for attribute in (self.MAJOR, self.MINOR):
            value = ctypes.c_int()
            self.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self.device)
            numbers.append(value.value)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return {
            "name": name.value.decode("utf-8", "replace"),
            "capability": numbers,
            "free_bytes": free.value,
            "total_bytes": total.value,
        }

    def allocate(self, size: int) -> int:
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def upload(self, address: int, array: "Array") -> None:
        pointer = ctypes.c_void_p(array.ctypes.data)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), pointer, ctypes.c_size_t(array.nbytes))

    def download(self, array: "Array", address: int) -> None:
        self.call("cuCtxSynchronize")
        pointer = ctypes.c_void_p(array.ctypes.data)
        self.call("cuMemcpyDtoH_v2", pointer, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))


RUNNERS = {
    "onnxruntime": OnnxRunner,
    "litert": LiteRtRunner,
    "edgetpu": EdgeTpuRunner,
    "torchscript": TorchScriptRunner,
    "tensorrt": TensorRtRunner,
}

FORMATS = {"onnx": "onnxruntime", "tflite": "litert"}
"""Runners of a format in bundles that do not name one; all others are called like the format."""


def load(folder: str, model: Json, threads: int) -> Any:
    """The runner for a model; on a TensorRT device an engine built beside the ONNX file goes first."""
    path = os.path.join(folder, model["path"])
    engine = os.path.splitext(path)[0] + ".engine"
    kind = model.get("runner") or FORMATS.get(model["format"], model["format"])
    if model.get("compiled"):
        path = compiled_later(folder, model)
    if kind == "onnxruntime" and model.get("runtime") == "tensorrt" and os.path.exists(engine):
        kind, path = "tensorrt", engine
    elif model.get("runtime") == "tensorrt" and importlib.util.find_spec("onnxruntime") is None:
        raise Problem("%s has no engine yet" % model["path"], "python3 build_engine.py builds it on this device")
    if kind not in RUNNERS:
        raise Problem("%s needs the runner %r; this agent has %s" % (path, kind, ", ".join(sorted(RUNNERS))))
    return RUNNERS[kind](path, model, threads)


def compiled_later(folder: str, model: Json) -> str:
    """What was compiled of a model after the bundle was made; the file it comes from is not run in its place."""
    path = os.path.join(folder, model["compiled"])
    if not os.path.exists(path):
        script = "%s_compile.sh" % os.path.splitext(model["path"])[0]
        fix = "sh %s on x86-64 Linux with edgetpu_compiler, then copy %s here" % (script, model["compiled"])
        raise Problem("%s is not compiled for the Edge TPU yet" % model["path"], fix)
    return path


# --- golden outputs ---------------------------------------------------------------------------------------------------


def read_golden(folder: str, manifest: Json, model: Json) -> Tuple["Array", "Array"]:
    """Inputs [n, C, H, W] and the logits [n, classes] that the maker's machine computed with this very file."""
    import numpy

    with numpy.load(os.path.join(folder, manifest["golden"]["path"]), allow_pickle=False) as golden:
        return golden["inputs"], golden[model["stage"]]


def compare(expected: "Array", found: "Array", tolerance: Dict[str, float]) -> Json:
    """How far `found` is from `expected`, and the reason it is too far (None if it is not)."""
    import numpy

    if found.shape != expected.shape:
        return {"passed": False, "reason": "outputs have shape %s, not %s" % (found.shape, expected.shape)}
    if not numpy.all(numpy.isfinite(found)):
        return {"passed": False, "reason": "outputs have NaN or infinite values"}
    exact = expected.astype("float64")
    error = found.astype("float64") - exact
    largest, peak = float(numpy.max(numpy.abs(error))), float(numpy.max(numpy.abs(exact)))
    noise, signal_power = float(numpy.sum(error**2)), float(numpy.sum(exact**2))
    sqnr = 10 * math.log10(signal_power / noise) if noise and signal_power else None
    agreement = float(numpy.mean(expected.argmax(axis=1) == found.argmax(axis=1)))
    reason = None
    if largest > NEGLIGIBLE:
        reason = violation(tolerance, largest, largest / peak if peak else math.inf, sqnr)
    return {
        "passed": reason is None,
        "reason": reason,
        "identical": bool(numpy.array_equal(expected, found)),
        "max_abs_error": largest,
        "sqnr_db": sqnr,
        "agreement": agreement,
        "samples": len(expected),
    }


def violation(tolerance: Dict[str, float], absolute: float, relative: float, sqnr: Optional[float]) -> Optional[str]:
    """Which of the limits `abs_error`, `relative_error`, `sqnr_db` is broken, in words."""
    text = "largest difference is %.3g%s, allowed %.3g"
    if absolute > tolerance.get("abs_error", math.inf):
        return text % (absolute, "", tolerance["abs_error"])
    if relative > tolerance.get("relative_error", math.inf):
        return text % (relative, " of the largest output", tolerance["relative_error"])
    if sqnr is not None and sqnr < tolerance.get("sqnr_db", -math.inf):
        return "signal-to-noise ratio is %.1f dB, at least %.1f dB wanted" % (sqnr, tolerance["sqnr_db"])
    return None


def check_golden(runner: Any, folder: str, manifest: Json, model: Json) -> Json:
    """Compare the outputs with the maker's; the tolerance is the one for this runtime."""
    import numpy

    inputs, expected = read_golden(folder, manifest, model)
    step = runner.batch or len(inputs)
    parts = [numpy.array(runner.logits(inputs[i : i + step])) for i in range(0, len(inputs), step)]
    limits = model["tolerance"]
    return compare(expected, numpy.concatenate(parts), limits.get(runner.family) or limits["any"])


# --- timing -----------------------------------------------------------------------------------------------------------


def median_interval(ordered: Sequence[float]) -> Tuple[float, float]:
    """95 % interval of the median from order statistics: no assumption about the distribution (Conover 1999, 3.2)."""
    count = len(ordered)
    # Normal approximation of Binomial(n, 1/2); within one rank of the exact one for n >= 30.
    spread = 1.96 * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2.0 - spread))
    high = min(count - 1, math.ceil(count / 2.0 + spread))
    return ordered[low], ordered[high]


def quantile(ordered: Sequence[float], q: float) -> float:
    """Linear interpolation between order statistics, as numpy does."""
    position = (len(ordered) - 1) * q
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def time_calls(run: Callable[[Any], object], feed: object, count: int, times: List[float]) -> None:
    """Append the seconds of `count` calls to `times`. Nothing but the call stands between the two clock readings."""
    clock = time.perf_counter
    for _ in range(count):
        start = clock()
        run(feed)
        times.append(clock() - start)


def warm_up(run: Callable[[Any], object], feed: object, seconds: float) -> List[float]:
    """Call until the time of a call has settled: at least 3 calls, then until `seconds` or 50 calls are spent."""
    times: List[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < 3 or (len(times) < 50 and time.perf_counter() < deadline):
        time_calls(run, feed, 1, times)
    return times


def measure(
    run: Callable[[Any], object], feed: object, seconds: float, watch: Callable[[], None] = lambda: None
) -> Json:
    """Call until the interval of the median is within 2 % or `seconds` are spent; a dict of milliseconds.

    `watch` is called between chunks of calls, never inside a timed one.
    """
    import gc

    warm = warm_up(run, feed, min(2.0, seconds / 4))
    chunk = max(1, int(CHUNK_SECONDS / max(min(warm), 1e-6)))
    times: List[float] = []
    started = time.perf_counter()
    gc.collect()
    gc.disable()  # a collection inside a timed call would be charged to the model
    try:
        while True:
            time_calls(run, feed, chunk, times)
            watch()
            ordered = sorted(times)
            middle, (low, high) = quantile(ordered, 0.5), median_interval(ordered)
            settled = len(times) >= FEWEST_CALLS and max(high - middle, middle - low) <= WITHIN * middle
            if settled or (time.perf_counter() - started >= seconds and len(times) >= 3):
                break
    finally:
        gc.enable()
    return {
        "median_ms": middle * MS,
        "low_ms": low * MS,
        "high_ms": high * MS,
        "p90_ms": quantile(ordered, 0.9) * MS,
        "p99_ms": quantile(ordered, 0.99) * MS,
        "min_ms": ordered[0] * MS,
        "runs": len(times),
        "warmup": len(warm),
        "settled": settled,
    }


class Watcher(object):
    """Highest temperature, and power by rail, over the readings between chunks, at most one a second."""

    def __init__(self) -> None:
        self.celsius: List[float] = []
        self.watts: List[Dict[str, Optional[float]]] = []
        self.next = 0.0

    def __call__(self) -> None:
        if time.perf_counter() < self.next:
            return
        self.next = time.perf_counter() + 1.0
        state = read_state()
        if state["celsius"] is not None:
            self.celsius.append(state["celsius"])
        if state["watts"]:
            self.watts.append(state["watts"])

    def summary(self) -> Json:
        rails = sorted(set(rail for reading in self.watts for rail in reading))
        means, deviations, counts = {}, {}, {}
        for rail in rails:
            readings = [reading.get(rail) for reading in self.watts]
            values = [value for value in readings if value is not None]
            mean = sum(values) / len(values) if values else None
            means[rail], counts[rail] = mean, len(values)
            if mean is not None and len(values) > 1:
                deviations[rail] = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
        return {
            "peak_celsius": max(self.celsius) if self.celsius else None,
            "mean_watts": means or None,
            "watts_deviation": deviations or None,
            "watts_readings": counts or None,
        }


# --- one model in one process -----------------------------------------------------------------------------------------


def benchmark_model(folder: str, manifest: Json, model: Json, threads: int, options: argparse.Namespace) -> List[Json]:
    """Load, check and time one model with one thread count; a list with one result for each batch size."""
    import numpy

    base = resident_bytes("VmHWM")
    start = time.perf_counter()
    runner = load(folder, model, threads)
    load_ms = (time.perf_counter() - start) * MS
    golden = check_golden(runner, folder, manifest, model)
    shared = {"runtime": runner.name, "load_ms": load_ms, "golden": golden, "threads": threads}
    if not golden["passed"]:
        reason = "golden outputs do not match on this device: %s" % golden["reason"]
        return [dict(shared, batch=runner.batch or 1, problem=reason)]
    sample = read_golden(folder, manifest, model)[0][:1]
    results = []
    for batch in [runner.batch] if runner.batch else options.batch:
        before, watcher = read_state(), Watcher()
        feed = runner.prepare(numpy.repeat(sample, batch, axis=0))
        latency = measure(getattr(runner, "call", runner.run), feed, options.seconds, watcher)
        latency["throughput_per_s"] = batch * MS / latency["median_ms"]
        result = dict(shared, batch=batch, latency=latency, before=before, after=read_state(), problem=None)
        result.update(watcher.summary())
        result.update(peak_rss_bytes=resident_bytes("VmHWM"), start_rss_bytes=base)
        results.append(result)
    return results


def resident_bytes(field: str) -> Optional[int]:
    """Resident memory of this process by its field of /proc/self/status (proc(5)); None elsewhere."""
    found = re.search(field + r":\s+(\d+) kB", read_text("/proc/self/status") or "")
    return int(found.group(1)) * 1024 if found else None


def isolated(function: Callable[[], object]) -> Any:
    """Run `function` in a forked child and return its JSON-able value; a crash becomes a `Problem`.

    A fork and not a new program: it needs no second start of the interpreter, which matters on small devices.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "wb") as stream:
            stream.write(json.dumps(answer(function)).encode("utf-8"))
        os._exit(0)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as stream:
            content = stream.read()
    finally:
        status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        raise Problem(crash(os.WTERMSIG(status)), "install the versions in requirements.txt")
    value = json.loads(content.decode("utf-8"))
    if "problem" in value:
        raise Problem(value["problem"])
    return value["value"]


def answer(function: Callable[[], object]) -> Json:
    try:
        return {"value": function()}
    except Problem as error:
        return {"problem": str(error)}
    except MemoryError:
        return {"problem": "this device has too little memory for the model"}
    except Exception as error:  # whatever a runtime throws ends this model, not the benchmark
        traceback.print_exc()
        return {"problem": "%s: %s" % (type(error).__name__, (str(error).strip().splitlines() or [""])[0])}


def crash(number: int) -> str:
    reasons = {
        int(signal.SIGILL): "SIGILL: the installed runtime uses instructions this CPU does not have",
        int(signal.SIGKILL): "SIGKILL: most likely too little memory",
    }
    return "the runtime died of " + reasons.get(number, "signal %d" % number)


# --- the program ------------------------------------------------------------------------------------------------------


MOST = 1 << 16  # threads, or images at a time: more than any board has or takes


def numbers(text: str) -> List[int]:
    """`1,4`; argparse shows the error of any other."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = [0]
    if min(values) < 1 or max(values) > MOST:
        raise argparse.ArgumentTypeError("%r is not whole numbers from 1 to %d, such as 1,4" % (text, MOST))
    return values


def positive_seconds(text: str) -> float:
    """A finite time above 0; argparse shows the error of any other."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("%r is not a number of seconds above 0, such as 30" % text)
    return value


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does."""

    def error(self, message: str) -> None:  # type: ignore[override]  # argparse exits
        raise Problem("command line: %s" % message, "python3 %s --help" % os.path.basename(sys.argv[0]), 2)


def require_writable(path: Optional[str]) -> None:
    """Find out now, and not after minutes of measuring, that a result cannot be written."""
    if not path:
        return
    temporary = path + ".part"
    try:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        with open(temporary, "w"):
            pass
        os.unlink(temporary)
    except (OSError, IOError) as error:
        raise Problem("--json %s cannot be written: %s" % (path, error.strerror), "name a file in a folder of yours", 2)


def parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = Parser(description="check and time the models of this bundle on this device")
    parser.add_argument("--bundle", default=os.path.dirname(os.path.abspath(__file__)), help="folder of the bundle")
    parser.add_argument("--models", metavar="A,B", help="only these stages; default: all in the bundle")
    parser.add_argument("--threads", type=numbers, metavar="1,4", help="thread counts; default: 1 and all cores")
    parser.add_argument("--batch", type=numbers, default=[1, 8], metavar="1,8", help="where the model takes any batch")
    text = "longest time for one figure; default 30"
    parser.add_argument("--seconds", type=positive_seconds, default=30.0, help=text)
    parser.add_argument("--json", metavar="FILE", help="write the results there as well")
    parser.add_argument("--resume", action="store_true", help="keep figures that FILE of --json already has")
    parser.add_argument("--any-device", action="store_true", help="run on another architecture than the bundle's")
    options = parser.parse_args(arguments)
    if options.resume and not options.json:
        parser.error("--resume keeps figures of the file that --json names, and none is named")
    return options


def chosen(manifest: Json, names: Optional[str]) -> List[Json]:
    models: List[Json] = manifest["models"]
    if not names:
        return models
    stages = [model["stage"] for model in models]
    for name in names.split(","):
        if name not in stages:
            raise Problem("no model %r in this bundle; it has %s" % (name, ", ".join(stages)), code=2)
    return [model for model in models if model["stage"] in names.split(",")]


def asked(manifest: Json, device: Json, options: argparse.Namespace) -> List[Tuple[Json, int]]:
    """Every chosen model with every thread count."""
    counts = options.threads or sorted({1, device["cores"]})
    return [(model, threads) for model in chosen(manifest, options.models) for threads in counts]


def run_all(
    folder: str,
    manifest: Json,
    work: List[Tuple[Json, int]],
    options: argparse.Namespace,
    report: Json,
    save: Callable[[Json], None],
) -> None:
    """Measure the models of `work` with their thread counts into `report`, saving after each."""
    for model, threads in work:
        facts = {name: model.get(name) for name in ("stage", "path", "format", "precision")}
        try:
            require_flags(model, report["device"])
            found = isolated(lambda: benchmark_model(folder, manifest, model, threads, options))
        except Problem as error:
            found = [{"threads": threads, "batch": 1, "problem": str(error)}]
        for result in found:
            report["results"].append(dict(facts, **result))
            print(row(report["results"][-1]), flush=True)
        save(report)
    report["finished"] = True


def settings(options: argparse.Namespace) -> Json:
    """What an earlier result must have been measured with to be kept."""
    return {"batch": options.batch, "seconds": options.seconds}


def resumable(options: argparse.Namespace, digest: str) -> Tuple[List[Json], bool]:
    """Figures of a run of the same bundle since the same boot, and whether that run went to its end."""
    if not options.resume:
        return [], False
    try:
        with open(options.json) as stream:
            earlier = json.load(stream)
        same = (earlier["manifest_sha256"], earlier["boot"], earlier["settings"]) == (
            digest,
            boot(),
            settings(options),
        )
        kept = [result for result in earlier["results"] if not result["problem"]] if same else []
        return kept, bool(same and earlier["finished"])
    except (OSError, IOError, ValueError, KeyError, TypeError):
        return [], False


def boot() -> Optional[str]:
    return read_text("/proc/sys/kernel/random/boot_id")


def saver(path: Optional[str]) -> Callable[[Json], None]:
    """A function that writes the report to `path`, whole or not at all; nothing without a path."""

    def save(report: Json) -> None:
        if not path:
            return
        temporary = path + ".part"
        with open(temporary, "w") as stream:
            json.dump(report, stream, indent=1, allow_nan=False)
        os.rename(temporary, path)

    return save


HEADER = "%-16s %-10s %-26s %3s %3s  %9s %9s %9s %9s %7s  %8s %8s  %s" % (
    ("model", "precision", "runtime", "thr", "bat", "median ms", "p90", "p99", "min", "n", "per s", "RSS MiB", "golden")
)


def row(result: Json) -> str:
    """One line of the table."""
    names = (result["stage"], result["precision"], result.get("runtime") or "-")
    start = "%-16s %-10s %-26s %3d %3d  " % (names + (result["threads"], result["batch"]))
    if result["problem"]:
        return "%sNOT VALID: %s" % (start, result["problem"])
    latency, golden = result["latency"], result["golden"]
    figures = tuple(latency[name] for name in ("median_ms", "p90_ms", "p99_ms", "min_ms"))
    close = "identical" if golden["identical"] else "within tolerance (%.2g)" % golden["max_abs_error"]
    memory = (result["peak_rss_bytes"] or 0) / float(1 << 20)
    tail = (latency["runs"], latency["throughput_per_s"], memory, close)
    return start + "%9.3f %9.3f %9.3f %9.3f %7d  %8.1f %8.1f  %s" % (figures + tail)


def banner(manifest: Json, device: Json, state: Json) -> str:
    lines = ["%s for %s on %s (%s)" % (manifest["producer"], manifest["target"], device["model"], device["system"])]
    if device["emulated"]:
        lines.append("EMULATED by %s: outputs are real, times mean nothing" % device["emulated"])
    elif device["virtual_machine"]:
        lines.append("a virtual machine: times depend on its neighbours")
    lines.append(
        "governor %s, clocks %s MHz, %s C, throttling %s"
        % (state["governor"], state["clocks_mhz"] or "unknown", state["celsius"], state["throttled"])
    )
    return "\n".join(lines)


def numpy_version() -> str:
    """For a child: an import that crashes, as one built for another CPU does, is an answer too."""
    try:
        import numpy
    except ImportError as error:
        raise Problem((str(error).strip().splitlines() or ["no reason given"])[0])
    return str(numpy.__version__)


def benchmark(options: argparse.Namespace) -> int:
    """Verify, check, measure, print; the exit code."""
    folder = os.path.abspath(options.bundle)
    require_writable(options.json)
    manifest, digest = read_manifest(folder)
    verify(folder, manifest)
    device = describe_device()
    require_device(manifest, device, options.any_device)
    work = asked(manifest, device, options)
    kept, finished = resumable(options, digest)
    done = set((result["stage"], result["threads"]) for result in kept)
    left = [(model, threads) for model, threads in work if (model["stage"], threads) not in done]
    if finished and not left:
        reason = "nothing is left to measure: %s has every figure that is asked for" % options.json
        raise Problem(reason, "leave --resume out to measure again", 2)
    try:
        version = isolated(numpy_version)
    except Problem as error:
        raise Problem("numpy cannot be imported: %s" % error, "%s; README.md has the lines to type" % INSTALL, 2)
    report = {
        "schema_version": RESULT_SCHEMA,
        "manifest_sha256": digest,
        "target": manifest["target"],
        "boot": boot(),
        "settings": settings(options),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": dict(device, numpy=version),
        "results": kept,
        "finished": False,
    }
    print(banner(manifest, device, read_state()))
    print(HEADER, flush=True)
    save = saver(options.json)
    run_all(folder, manifest, left, options, report, save)
    save(report)
    return 1 if any(result["problem"] for result in report["results"]) else 0


def main(arguments: Optional[List[str]] = None) -> int:
    try:
        return benchmark(parse(arguments))
    except Problem as error:
        print("error: %s" % error, file=sys.stderr)
        return error.code
    except (OSError, IOError) as error:
        print("error: %s: %s" % (error.filename, error.strerror), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
