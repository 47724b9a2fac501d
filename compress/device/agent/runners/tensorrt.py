"""TensorRT engines, built on this device: they move neither between GPUs nor between TensorRT versions."""

from typing import Any

from ..cuda import Cuda
from ..tensorrt_engine import Engine
from ..values import Array, Json, Problem
from ..versions import missing_runtime


class TensorRtRunner(object):
    """An engine with one input and one output."""

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
            self.engine = Engine(tensorrt, stream.read())
        if self.engine.damaged:
            reason = "%s cannot load %s: it is damaged, or of another TensorRT or GPU" % (self.name, path)
            raise Problem(reason, "python3 build_engine.py builds it on this device")
        if self.engine.context is None:
            raise Problem("too little GPU memory to run %s" % path, "close other programs, or add swap")
        entries = self.engine.tensors()
        self.input = next(entry for entry in entries if entry.is_input)
        self.output = next(entry for entry in entries if not entry.is_input)
        self.smallest, self.largest = self.engine.batches(self.input)
        self.batch = self.largest if self.smallest == self.largest else None
        self.image, self.result = (
            numpy.zeros((self.largest,) + entry.shape[1:], entry.dtype) for entry in (self.input, self.output)
        )
        self.addresses = [self.cuda.allocate(array.nbytes) for array in (self.image, self.result)]
        for entry, address in zip((self.input, self.output), self.addresses):
            self.engine.set_address(entry, address)

    def prepare(self, images: Array) -> Any:
        if not self.smallest <= len(images) <= self.largest:
            reason = "batch %d is outside the engine's profile, %d to %d" % (len(images), self.smallest, self.largest)
            raise Problem(reason, "python3 build_engine.py --batch 1,%d,%d" % (len(images), len(images)))
        return self.numpy.ascontiguousarray(images.astype(self.input.dtype))

    def run(self, feed: Any) -> Any:
        self.engine.set_shape(self.input, feed.shape)
        self.cuda.upload(self.addresses[0], feed)
        if not self.engine.execute():
            raise Problem("%s failed to run the engine" % self.name)
        self.cuda.download(self.result, self.addresses[1])
        return self.result[: len(feed)]

    def logits(self, images: Array) -> Array:
        outputs: Array = self.run(self.prepare(images)).astype("float32")
        return outputs


Runner = TensorRtRunner
