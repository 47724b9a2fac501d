"""One module per runtime, named like it: its runner loads a file, prepares images, runs and gives logits.

A runner has `name`, `family` (by which tolerances are listed), `batch` (None: any), `prepare(images)`, `run(feed)` and
`logits(images)`; `call`, where it has one, is timed instead of `run`.
"""

import importlib
import importlib.util
import os
from typing import Any

from ..files import require_no_link
from ..values import Json, Problem

RUNNERS = ("edgetpu", "litert", "onnxruntime", "tensorrt", "torchscript")
"""The modules beside this one: a manifest comes from a stranger and names no other."""

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
        require_no_link(folder, os.path.relpath(engine, folder))
        kind, path = "tensorrt", engine
    elif model.get("runtime") == "tensorrt" and importlib.util.find_spec("onnxruntime") is None:
        raise Problem("%s has no engine yet" % model["path"], "python3 build_engine.py builds it on this device")
    if kind not in RUNNERS:
        raise Problem("%s needs the runner %r; this agent has %s" % (path, kind, ", ".join(RUNNERS)))
    return importlib.import_module("." + kind, __name__).Runner(path, model, threads)


def compiled_later(folder: str, model: Json) -> str:
    """Path of what was compiled of a model after bundling; the file it comes from is not run in its place."""
    path = os.path.join(folder, model["compiled"])
    require_no_link(folder, model["compiled"])
    if not os.path.exists(path):
        script = "%s_compile.sh" % os.path.splitext(model["path"])[0]
        fix = "sh %s on x86-64 Linux with edgetpu_compiler, then copy %s here" % (script, model["compiled"])
        raise Problem("%s is not compiled for the Edge TPU yet" % model["path"], fix)
    return path
