"""Live PyTorch modules: what stages change, and what is never delivered itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from compress.core.artifact import Format, Precision
from compress.formats.base import DeviceRuntime, NoSource, Profiler

if TYPE_CHECKING:
    from compress.core.artifact import Artifact
    from compress.formats.base import FormatSupport, OpenFile

__all__ = ["SUPPORT", "TorchSupport"]


class TorchSupport(NoSource):
    """Facts of modules, without one at hand. Their files are those of `torch.export` and TorchScript."""

    format = Format.TORCH
    suffixes = (".pt2", ".pt")
    tools = ("torch", "torchao", "torch-pruning", "torchvision")
    device_runtimes: ClassVar[Mapping[str, DeviceRuntime]] = {}
    profiler: Profiler | str = Profiler("torch", "compress.profile.readers.torch")
    on_accelerator = False
    shows_integers = False
    multiplies_bytes = False
    made_elsewhere = "nothing to measure here: it is made on the device"
    why_no_source = "a module is loaded by its kind of model, not by its suffix"
    """A module is built by `compress.models.load`, which knows its weights and whom to trust."""

    def open(self, artifact: Artifact) -> OpenFile:
        from compress.formats.torch.module import OpenModule

        return OpenModule(artifact)

    def emulation(self, precision: Precision, architecture: str) -> str | None:
        return torch_emulation(precision)


def torch_emulation(precision: Precision) -> str | None:
    """Explain why PyTorch's times on a processor are not those of `precision`'s own arithmetic; None for FP32."""
    if precision is Precision.INT8:
        return "Q/DQ around float32 arithmetic; INT8 kernels run only in the exported file"
    if precision is Precision.FP16:
        return "PyTorch's FP16 kernels for CPUs, not the device's FP16 units"
    return None


SUPPORT: FormatSupport = TorchSupport()
