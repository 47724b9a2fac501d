"""The CUDA driver through ctypes: no CUDA package, no second copy of CUDA. The host's runners use this module too.

Signatures: NVIDIA CUDA Driver API reference. Everything lives in the device's primary context, which TensorRT and
PyTorch use too.
"""

import ctypes
from typing import Any, Tuple

from .values import Array, Json, Problem

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*, cuda.h
OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY, cuda.h


class Cuda(object):
    """The few calls that are needed, on the first GPU; every GPU's driver has them.

    Raises (all methods):
        Problem, or what a subclass makes of it in `failure`: there is no driver, or it refuses.
    """

    def __init__(self) -> None:
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise Problem("there is no CUDA driver here: %s" % error, "run this on the device itself")
        self.device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(self.device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)  # the one that TensorRT uses
        self.call("cuCtxSetCurrent", context)

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function of the driver; it answers 0, or this raises."""
        code = getattr(self.library, function)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self.library.cuGetErrorString(code, ctypes.byref(text))
            raise self.failure(function, code, (text.value or b"unknown").decode("ascii", "replace"))

    def failure(self, function: str, code: int, said: str) -> Exception:
        fix = "close other programs on the GPU" if code == OUT_OF_MEMORY else None
        return Problem("the CUDA driver answers %s with error %d: %s" % (function, code, said), fix)

    def describe(self) -> Json:
        """Name, compute capability and memory of the GPU."""
        name, numbers = ctypes.create_string_buffer(128), []
        self.call("cuDeviceGetName", name, len(name), self.device)
        for attribute in (MAJOR, MINOR):
            value = ctypes.c_int()
            self.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self.device)
            numbers.append(value.value)
        free, total = self.memory()
        return {
            "name": name.value.decode("utf-8", "replace"),
            "capability": numbers,
            "free_bytes": free,
            "total_bytes": total,
        }

    def memory(self) -> Tuple[int, int]:
        """Bytes of the GPU's memory that nobody uses now, and all of them."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU."""
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def upload(self, address: int, array: Array) -> None:
        """Copy a contiguous array to the GPU."""
        pointer = ctypes.c_void_p(array.ctypes.data)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), pointer, ctypes.c_size_t(array.nbytes))

    def synchronize(self) -> None:
        """Wait for everything that was started."""
        self.call("cuCtxSynchronize")

    def download(self, array: Array, address: int) -> None:
        """Copy from the GPU into a contiguous array, when everything that was started is done."""
        self.synchronize()
        pointer = ctypes.c_void_p(array.ctypes.data)
        self.call("cuMemcpyDtoH_v2", pointer, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))
