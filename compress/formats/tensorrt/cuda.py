"""Streams, events and owned memory: what timing on a GPU needs besides the agent's binding of the CUDA driver.

Signatures: NVIDIA CUDA Driver API reference, sections on memory, streams and events.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from compress.core.errors import StageError
from compress.device.agent.cuda import OUT_OF_MEMORY, Cuda
from compress.device.agent.values import Problem

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["DeviceBuffer", "Event", "Gpu", "Stream", "open_gpu", "pinned"]


class Gpu(Cuda):
    """The first CUDA device of this process.

    Attributes:
        name: as the driver calls it, for example `NVIDIA H100 80GB HBM3`.
        capability: compute capability, `(major, minor)`.
    """

    def __init__(self) -> None:
        super().__init__()
        facts = self.describe()
        self.name: str = facts["name"]
        self.capability: tuple[int, int] = (facts["capability"][0], facts["capability"][1])

    def failure(self, function: str, code: int, said: str) -> StageError:
        """The program's own error about a call that does not return 0."""
        if code == OUT_OF_MEMORY:
            return StageError("the GPU is out of memory", fix="close other programs on it, or use a smaller batch")
        return StageError(f"the CUDA driver answers {function} with {said} ({code})")

    def free_bytes(self) -> int:
        """Memory of the GPU that nobody uses now."""
        return self.memory()[0]


@lru_cache
def open_gpu() -> Gpu | None:
    """The GPU; None where there is no driver or no device."""
    try:
        return Gpu()
    except (Problem, StageError):
        return None


class DeviceBuffer:
    """`size` bytes of GPU memory, freed with the object."""

    def __init__(self, gpu: Gpu, size: int) -> None:
        self._gpu = gpu
        self._address = ctypes.c_uint64(0)
        self._address.value = gpu.allocate(size)

    @property
    def address(self) -> int:
        return self._address.value

    def upload(self, array: NDArray[np.generic], stream: Stream) -> None:
        """Start copying a contiguous host array here."""
        self._gpu.call("cuMemcpyHtoDAsync_v2", self._address, _pointer(array), _size(array), stream.handle)

    def download(self, array: NDArray[np.generic], stream: Stream) -> None:
        """Start copying to a contiguous host array."""
        self._gpu.call("cuMemcpyDtoHAsync_v2", _pointer(array), self._address, _size(array), stream.handle)

    def __del__(self) -> None:
        if self._address.value:
            self._gpu.call("cuMemFree_v2", self._address)


class Stream:
    """A queue of GPU work."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.handle = ctypes.c_void_p()
        gpu.call("cuStreamCreate", ctypes.byref(self.handle), 1)  # CU_STREAM_NON_BLOCKING

    def synchronize(self) -> None:
        """Wait for everything in the queue."""
        self._gpu.call("cuStreamSynchronize", self.handle)


class Event:
    """A moment in a stream."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._handle = ctypes.c_void_p()
        gpu.call("cuEventCreate", ctypes.byref(self._handle), 0)

    def record(self, stream: Stream) -> None:
        """Let the GPU note the time when it gets here."""
        self._gpu.call("cuEventRecord", self._handle, stream.handle)

    def ms_since(self, earlier: Event) -> float:
        """Milliseconds between two events that have happened; the GPU's clock resolves 0.5 us."""
        milliseconds = ctypes.c_float()
        self._gpu.call("cuEventElapsedTime", ctypes.byref(milliseconds), earlier._handle, self._handle)
        return milliseconds.value


def pinned(gpu: Gpu, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.generic]:
    """A host array that the GPU copies from and to without the driver's detour; it lives as long as the process."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    address = ctypes.c_void_p()
    gpu.call("cuMemAllocHost_v2", ctypes.byref(address), ctypes.c_size_t(size))
    assert address.value is not None
    memory = (ctypes.c_char * size).from_address(address.value)
    array: NDArray[np.generic] = np.frombuffer(memoryview(memory), dtype=kind).reshape(shape)
    return array


def _pointer(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _size(array: NDArray[np.generic]) -> ctypes.c_size_t:
    return ctypes.c_size_t(array.nbytes)
