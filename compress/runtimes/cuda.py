"""The part of the CUDA driver that running an engine needs, through ctypes: no CUDA package, no second copy of CUDA.

Signatures: NVIDIA CUDA Driver API reference, sections on memory, streams and events. Everything lives in the device's
primary context, which TensorRT and PyTorch use too.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from compress.errors import StageError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["DeviceBuffer", "Event", "Gpu", "Stream", "open_gpu", "pinned"]

_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY, cuda.h
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*, cuda.h


class Gpu:
    """The first CUDA device of this process.

    Attributes:
        name: as the driver calls it, for example `NVIDIA H100 80GB HBM3`.
        capability: compute capability, `(major, minor)`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        device, context, name = ctypes.c_int(), ctypes.c_void_p(), ctypes.create_string_buffer(128)
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.call("cuDeviceGetName", name, len(name), device)
        self.name = name.value.decode("utf-8", "replace")
        self.capability = (self._attribute(_CAPABILITY_MAJOR, device), self._attribute(_CAPABILITY_MINOR, device))

    def call(self, function: str, *arguments: object) -> None:
        """Call a driver function.

        Raises:
            StageError: it does not return 0.
        """
        code = getattr(self._library, function)(*arguments)
        if code == _OUT_OF_MEMORY:
            raise StageError("the GPU is out of memory", fix="close other programs on it, or use a smaller batch")
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            raise StageError(f"the CUDA driver answers {function} with {(text.value or b'an error').decode()} ({code})")

    def free_bytes(self) -> int:
        """Memory of the GPU that nobody uses now."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def synchronize(self) -> None:
        """Wait for everything that was started."""
        self.call("cuCtxSynchronize")

    def _attribute(self, number: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), number, device)
        return value.value


@lru_cache
def open_gpu() -> Gpu | None:
    """The GPU; None where there is no driver or no device."""
    try:
        return Gpu(ctypes.CDLL("libcuda.so.1"))
    except (OSError, StageError):
        return None


class DeviceBuffer:
    """`size` bytes of GPU memory, freed with the object."""

    def __init__(self, gpu: Gpu, size: int) -> None:
        self._gpu = gpu
        self._address = ctypes.c_uint64()
        gpu.call("cuMemAlloc_v2", ctypes.byref(self._address), ctypes.c_size_t(size))

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
