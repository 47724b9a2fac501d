"""TorchScript files on PyTorch."""

import platform
from typing import Any

from ..values import Array, Json, Problem
from ..versions import missing_runtime


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

    def prepare(self, images: Array) -> Any:
        return self.torch.from_numpy(images)

    def run(self, feed: Any) -> Any:
        with self.torch.no_grad():
            return self.module(feed)

    def logits(self, images: Array) -> Array:
        outputs: Array = self.run(self.prepare(images)).float().numpy()
        return outputs


Runner = TorchScriptRunner
