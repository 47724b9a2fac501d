"""ONNX files on ONNX Runtime."""

import functools
import os
from typing import Any

from ..values import Array, Json, Problem
from ..versions import missing_runtime, require_version

# ONNX Runtime's Linux wheels report usage to their maker unless told not to before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


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

    def prepare(self, images: Array) -> Any:
        return {self.input: images.astype(self.type)}

    def run(self, feed: Any) -> Any:
        return self.session.run(None, feed)[0]

    def logits(self, images: Array) -> Array:
        outputs: Array = self.run(self.prepare(images)).astype("float32")
        return outputs


Runner = OnnxRunner
