"""Building a graph, or importing a large library, without looking for garbage in it.

A captured graph, or what PyTorch's import makes, is tens of thousands of small objects that refer to each other in
circles and all live on. Python's cyclic collector walks through them again and again as they grow in number, and finds
next to nothing; what is thrown away on the way goes by reference count, as always, or with the first collection
afterwards.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collector_paused"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """Python's cyclic collector rests in this block (or function, as a decorator), unless it was off before."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
