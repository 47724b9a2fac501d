"""TorchScript files, run by PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from compress.core.artifact import Format, Precision
from compress.formats.base import DeviceRuntime, NoSource, Profiler
from compress.formats.torch.support import torch_emulation

if TYPE_CHECKING:
    from compress.core.artifact import Artifact
    from compress.formats.base import FormatSupport, OpenFile

__all__ = ["SUPPORT", "TorchScriptSupport"]


class TorchScriptSupport(NoSource):
    """Facts of TorchScript files, none of which is opened for them."""

    format = Format.TORCHSCRIPT
    suffixes = (".ts", ".torchscript")
    tools = ("torch",)
    device_runtimes: ClassVar[Mapping[str, DeviceRuntime]] = {"torchscript": DeviceRuntime(("torch",), "torchscript")}
    profiler: Profiler | str = "a frozen script has no modules left to tell apart"
    on_accelerator = False
    shows_integers = False
    multiplies_bytes = False
    made_elsewhere = "nothing to measure here: it is made on the device"
    why_no_source = "a script is loaded as the module it holds, by its kind of model"
    """The script is rebuilt as a module by `compress.models.load`."""

    def open(self, artifact: Artifact) -> OpenFile:
        from compress.formats.torchscript.file import ScriptFile

        return ScriptFile(artifact)

    def emulation(self, precision: Precision, architecture: str) -> str | None:
        return torch_emulation(precision)


SUPPORT: FormatSupport = TorchScriptSupport()
