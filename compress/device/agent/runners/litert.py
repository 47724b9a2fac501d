"""TFLite files on LiteRT or its predecessors; one that was compiled for an Edge TPU runs there."""

import sys
from typing import Any, Tuple

from ..values import Array, Json, Problem
from ..versions import missing_runtime, package_version
from .delegate import edgetpu, holds_edgetpu_code


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

    def prepare(self, images: Array) -> Any:
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

    def logits(self, images: Array) -> Array:
        values: Array = self.run(self.prepare(images)).astype("float32")
        scale, zero_point = self.output["quantization"]
        return (values - zero_point) * scale if scale else values


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


Runner = LiteRtRunner
