"""Settled before PyTorch is loaded: freed memory is kept for the next tensor instead of going back to the system page
by page, and threads without work sleep."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory", "let_idle_threads_sleep"]

# malloc.h of glibc
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_LARGEST = 1 << 30
"""Bytes. The activations of 64 images of 224 x 224 pixels take 310 MB in the widest layer of MobileNetV2."""


def keep_freed_memory() -> bool:
    """Let glibc reuse large blocks; returns whether there was a glibc to tell.

    By default glibc maps every block above 32 MiB anew and unmaps it when it is freed. The kernel then clears each
    page again: half of the processor time of MobileNetV2 on batches of 64 images.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))


def let_idle_threads_sleep() -> None:
    """Let OpenMP's threads sleep until there is work; to be called before PyTorch is imported.

    By default they look for it in a loop, up to 300 000 times (libgomp), on a core that another process could use: on a
    machine with more work than cores, MobileNetV2 on single images took 895 ms of processor time on 2 threads, and
    63 ms with sleeping ones. Whoever set one of OpenMP's own variables keeps it.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
