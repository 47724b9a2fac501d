"""Questions that every format is asked, and the one way for an answer to be absent: with a reason.

`FormatSupport` knows a kind of file, `OpenFile` one file (or live module) of it. A new format is a member of `Format`,
a folder here whose `support` module has `SUPPORT`, and an exporter stage; whoever asks goes through `registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from compress.core.artifact import Precision

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from compress.core.artifact import Artifact, Format, InputSpec, Port
    from compress.core.measurement import IntegerShare, Sparsity
    from compress.formats.onnx.layers import Layer
    from compress.formats.onnx.pattern import Pattern
    from compress.formats.runner import Runner
    from compress.formats.size import Size

__all__ = [
    "Activation",
    "DeviceRuntime",
    "FormatSupport",
    "NoSource",
    "NotMeasured",
    "OpenFile",
    "Profiler",
    "Unanswered",
]


class NotMeasured(Exception):  # not an error of the run: the row shows a dash and this reason
    """A quantity that cannot be measured on this artifact; the message is the reason shown to the user."""


CPU_FLAGS: Mapping[str, tuple[str, ...]] = {"aarch64": ("asimd",), "armv7l": ("neon",)}
"""Without them the kernels of every runtime die of SIGILL: Armv8-A wheels assume ASIMD, armv7l ones NEON. On x86 the
runtimes look before they choose."""


@dataclass(frozen=True)
class DeviceRuntime:
    """A runtime that runs a format on a board.

    Attributes:
        modules: Python modules one of which has to be there, as the agent tries them.
        runner: the agent's module that uses them, `agent/runners/<runner>.py`.
        cpu_flags: features of /proc/cpuinfo that it cannot do without, by architecture.
    """

    modules: tuple[str, ...]
    runner: str
    cpu_flags: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: CPU_FLAGS)


@dataclass(frozen=True)
class Profiler:
    """A runtime that times a format's layers: its name, and the module with `record` and `launch_us`."""

    runtime: str
    module: str


@dataclass(frozen=True)
class Activation:
    """One operator's result.

    Attributes:
        name: the layer or node.
        values: float32; None for what is no float tensor.
        readers: positions of the operators that read it.
    """

    name: str
    values: NDArray[np.float32] | None
    readers: tuple[int, ...] = ()


class OpenFile(Protocol):
    """One artifact, parsed at most once; what is asked twice is answered from memory.

    Every question may raise `NotMeasured` with the reason.
    """

    def runner(self, *, threads: int) -> Runner:
        """Run it in its own runtime, on this machine, as it is deployed.

        Raises:
            DeviceMissing: only a device that is not here runs it.
            StageError: the runtime refuses the file.
        """
        ...

    def answers(self) -> Runner:
        """Run it on all cores, where outputs count and not time."""
        ...

    def reference(self) -> Runner:
        """Run it as its format's specification says, not as fused kernels of this processor compute it."""
        ...

    def size(self) -> Size: ...

    def parameters(self) -> int: ...

    def sparsity(self) -> Sparsity: ...

    def macs(self) -> int: ...

    def integers(self) -> IntegerShare:
        """Measure the share of arithmetic and weights in integers."""
        ...

    def pattern(self, n: int, m: int) -> Pattern:
        """Count the layers with at most `n` non-zero weights in `m` inputs."""
        ...

    def in_7_bits(self) -> bool:
        """Tell whether weights keep to 7 bits, so that no processor saturates their products."""
        ...

    def layers(self) -> tuple[Layer, ...]:
        """List the work of every layer, for estimates."""
        ...

    def activations(self, image: NDArray[np.float32]) -> list[Activation]:
        """Compute every value from one image `[1, C, H, W]`, operator by operator, in execution order."""
        ...

    def ports(self) -> tuple[Port, Port]:
        """Describe input and output, where they are stored otherwise than every artifact takes and gives them."""
        ...

    def opset(self) -> int:
        """Version of the operator set."""
        ...

    def needs(self) -> Mapping[str, str]:
        """Oldest version that can load it, by runtime on a device."""
        ...

    def minimum_runtime(self) -> str:
        """Oldest version of its own runtime that loads it, where the file says."""
        ...

    def as_module(self) -> nn.Module:
        """The network that it describes, as stages take it that work on modules.

        Raises:
            ModelError: it holds an operator that has no form in PyTorch.
        """
        ...

    def self_contained(self, folder: Path) -> Artifact:
        """The artifact in one file: what lies beside it is put into a copy below `folder`.

        Raises:
            StageError: `folder` cannot be written.
        """
        ...

    def digest(self) -> str:
        """Hex SHA-256 of everything the model computes with."""
        ...

    def release(self) -> None:
        """Let go what was parsed; the answers are kept, and what is asked anew is parsed again."""
        ...


class FormatSupport(Protocol):
    """A kind of file.

    Attributes:
        suffixes: ends of its files' names; the exporter writes the first.
        tools: distributions that write, read or run it.
        device_runtimes: what runs it on boards, by the name that targets use; the first runs it on this machine, too.
        profiler: what times its layers; a text says why nothing does.
        on_accelerator: the processor only waits while it runs, so that its time is not the model's.
        shows_integers: an INT8 file says which of its operators and weights are integers.
        multiplies_bytes: kernels of this machine's processor multiply the file's integers, which may saturate.
        made_elsewhere: why an artifact that is still to be compiled is not measured.
        is_source: a pipeline starts from a user's file as it is; what is loaded as a module is none.
    """

    @property
    def format(self) -> Format: ...
    @property
    def suffixes(self) -> tuple[str, ...]: ...
    @property
    def tools(self) -> tuple[str, ...]: ...
    @property
    def device_runtimes(self) -> Mapping[str, DeviceRuntime]: ...
    @property
    def profiler(self) -> Profiler | str: ...
    @property
    def on_accelerator(self) -> bool: ...
    @property
    def shows_integers(self) -> bool: ...
    @property
    def multiplies_bytes(self) -> bool: ...
    @property
    def made_elsewhere(self) -> str: ...
    @property
    def is_source(self) -> bool: ...

    def open(self, artifact: Artifact) -> OpenFile:
        """Open an artifact of this format; nothing is read before it is asked."""
        ...

    def emulation(self, precision: Precision, architecture: str) -> str | None:
        """Explain why its time on a host of `architecture` is not that of `precision`'s arithmetic; None if it is."""
        ...

    def precision_of(self, path: Path) -> Precision:
        """Precision of a file that is no artifact, as far as it says; FP32 where it does not.

        Raises:
            ConfigError: the file is not what its suffix says.
        """
        ...

    def trial(self, path: Path, spec: InputSpec, most_bytes: int) -> Callable[[], object]:
        """Prepare reading a stranger's file and running it on a blank image, no value in it above `most_bytes`.

        What that takes is imported here, so that the call itself can be made in a copy of this process.

        Raises:
            NotMeasured: a pipeline cannot start from this format.
        """
        ...

    def load_source(self, path: Path, spec: InputSpec) -> Artifact:
        """Read a user's model file as an artifact.

        Raises:
            NotMeasured: a pipeline cannot start from this format.
            ModelError: damaged, unsafe, or not a classifier of the declared input.
        """
        ...


class NoSource:
    """The part of a `FormatSupport` that no pipeline starts from."""

    is_source = False
    why_no_source = "a pipeline cannot start from this format"

    def precision_of(self, path: Path) -> Precision:
        return Precision.FP32

    def trial(self, path: Path, spec: InputSpec, most_bytes: int) -> Callable[[], object]:
        raise NotMeasured(self.why_no_source)

    def load_source(self, path: Path, spec: InputSpec) -> Artifact:
        raise NotMeasured(self.why_no_source)


class Unanswered:
    """Has a size and answers no other question, each with one reason; a format's `OpenFile` answers what it can."""

    why = "this format cannot tell"

    def __init__(self, artifact: Artifact) -> None:
        self._artifact = artifact

    def runner(self, *, threads: int) -> Runner:
        raise self._absent()

    def answers(self) -> Runner:
        from compress.formats.runtimes import usable_cores

        return self.runner(threads=usable_cores())

    def reference(self) -> Runner:
        return self.answers()

    def size(self) -> Size:
        from compress.formats.size import file_size

        return file_size([self._artifact.path])

    def as_module(self) -> nn.Module:
        raise self._absent()

    def self_contained(self, folder: Path) -> Artifact:
        return self._artifact

    def digest(self) -> str:
        from compress.support.files import sha256_file

        return sha256_file(self._artifact.path)

    def _absent(self) -> NotMeasured:
        return NotMeasured(self.why)

    def parameters(self) -> int:
        raise self._absent()

    def sparsity(self) -> Sparsity:
        raise self._absent()

    def macs(self) -> int:
        raise self._absent()

    def integers(self) -> IntegerShare:
        raise self._absent()

    def pattern(self, n: int, m: int) -> Pattern:
        raise self._absent()

    def in_7_bits(self) -> bool:
        raise self._absent()

    def layers(self) -> tuple[Layer, ...]:
        raise self._absent()

    def activations(self, image: NDArray[np.float32]) -> list[Activation]:
        raise self._absent()

    def ports(self) -> tuple[Port, Port]:
        raise NotMeasured("input and output are float32 and laid out as everywhere: [N, C, H, W] and [N, classes]")

    def opset(self) -> int:
        raise NotMeasured("only ONNX files have an operator set")

    def needs(self) -> Mapping[str, str]:
        return {}

    def minimum_runtime(self) -> str:
        raise NotMeasured("the file does not say which runtime it needs")

    def release(self) -> None: ...
