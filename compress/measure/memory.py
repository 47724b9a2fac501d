"""Peak resident memory of this process over a stretch of work."""

from __future__ import annotations

import threading
from types import TracebackType

__all__ = ["PeakMemory"]

_INTERVAL_SECONDS = 0.01


class PeakMemory:
    """Samples the process's resident memory every 10 ms from a thread; native code that frees the GIL is seen too.

    A peak shorter than the interval can be missed, so the reading is a lower bound. Nests.

        with PeakMemory() as memory:
            work()
        memory.peak_bytes
    """

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-rss", daemon=True)
        self._peak = 0

    @property
    def peak_bytes(self) -> int:
        """Highest resident memory seen so far, of the whole process."""
        return self._peak

    def __enter__(self) -> PeakMemory:
        self._read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._read()

    def _sample(self) -> None:
        while not self._stop.wait(_INTERVAL_SECONDS):
            self._read()

    def _read(self) -> None:
        self._peak = max(self._peak, int(self._process.memory_info().rss))
