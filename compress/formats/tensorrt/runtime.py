"""TensorRT engines on this machine's GPU: TensorRT 8.5 or later, with the CUDA driver for memory and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compress.core.errors import MissingExtra, StageError
from compress.device.agent.tensorrt_engine import Engine, Tensor
from compress.formats.tensorrt.cuda import DeviceBuffer, Event, Stream, open_gpu, pinned

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compress.core.artifact import Artifact

__all__ = ["CallTimes", "TensorRTRunner", "interleaved", "load", "load_engine", "unavailable"]


@dataclass(frozen=True)
class CallTimes:
    """Milliseconds of single calls by the GPU's clock, in order: copying images in, computing, copying logits out."""

    upload_ms: tuple[float, ...]
    compute_ms: tuple[float, ...]
    download_ms: tuple[float, ...]


class TensorRTRunner:
    """A deserialized engine with one image input and one output.

    Attributes:
        name: runtime, version and GPU.
        smallest, largest: batch sizes of the engine's profile.
    """

    def __init__(self, content: bytes, title: str) -> None:
        trt, gpu = _tensorrt(), open_gpu()
        if gpu is None:
            raise StageError(f"{title} needs an NVIDIA GPU, and none answers here", fix="run it on the device")
        self.name = f"tensorrt {trt.__version__} on {gpu.name}"
        self._gpu, self._title = gpu, title
        self._engine = Engine(trt, content)
        if self._engine.damaged and gpu.free_bytes() >= 2 * len(content):
            raise StageError(
                f"TensorRT {trt.__version__} cannot load {title}: it is damaged, or of another TensorRT or GPU",
                fix="build the engine again on this machine",
            )
        if self._engine.context is None:
            raise StageError(f"the GPU has too little memory to run {title}", fix="close other programs on it")
        self._input, self._output = self._tensors()
        self.smallest, self.largest = self._engine.batches(self._input)
        self._stream = Stream(gpu)
        self._host_in, self._device_in = self._buffers(self._input)
        self._host_out, self._device_out = self._buffers(self._output)
        self._batch = 0
        self._set_batch(self.largest)
        self._events = tuple(Event(gpu) for _ in range(4))

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits `[N, classes]`; more images than the profile takes go in several calls, fewer are filled up.

        Raises:
            StageError: the GPU refuses.
        """
        parts = [self._call(images[start : start + self.largest]) for start in range(0, len(images), self.largest)]
        return np.concatenate(parts)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one image, `(channels, height, width)`."""
        return self._host_in.shape[1:]

    def require_batch(self, batch: int) -> None:
        """Refuse a batch that one call cannot take.

        Raises:
            StageError: it is outside the profile.
        """
        if not self.smallest <= batch <= self.largest:
            raise StageError(
                f"batch {batch} is outside the profile of {self._title}, {self.smallest} to {self.largest}",
                fix=f"build with batch=[1,{batch},{batch}]",
            )

    def prepare(self, images: NDArray[np.float32]) -> None:
        """Put the images that `step` runs on the GPU.

        Raises:
            StageError: one call cannot take as many.
        """
        self.require_batch(len(images))
        self._set_batch(len(images))
        self._host_in[: len(images)] = images
        self._device_in.upload(self._host_in[: len(images)], self._stream)
        self._stream.synchronize()

    def step(self) -> tuple[float, float, float]:
        """One call on what `prepare` put there: milliseconds of upload, compute and download by CUDA events."""
        marks = self._events
        marks[0].record(self._stream)
        self._device_in.upload(self._host_in[: self._batch], self._stream)
        marks[1].record(self._stream)
        self._enqueue()
        marks[2].record(self._stream)
        self._device_out.download(self._host_out[: self._batch], self._stream)
        marks[3].record(self._stream)
        self._stream.synchronize()
        return marks[1].ms_since(marks[0]), marks[2].ms_since(marks[1]), marks[3].ms_since(marks[2])

    def layer_times(self, images: NDArray[np.float32], *, runs: int = 30) -> dict[str, float]:
        """Milliseconds of every layer, the median of `runs` calls; together more than a call, as each is waited for."""
        trt = _tensorrt()
        self.prepare(images)
        context = self._engine.engine.create_execution_context()
        context.set_input_shape(self._input.key, (len(images), *self._host_in.shape[1:]))
        context.set_tensor_address(self._input.key, self._device_in.address)
        context.set_tensor_address(self._output.key, self._device_out.address)
        times: dict[str, list[float]] = {}

        class Profiler(trt.IProfiler):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times.setdefault(layer_name, []).append(ms)

        context.profiler = profiler = Profiler()  # the context does not keep it alive
        for _ in range(runs):
            context.execute_async_v3(self._stream.handle.value)
            self._stream.synchronize()
        del context, profiler
        return {name: float(np.median(own)) for name, own in times.items()}

    def _call(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        count = len(images)
        self._set_batch(max(count, self.smallest))
        self._host_in[:count] = images
        self._device_in.upload(self._host_in[: self._batch], self._stream)
        self._enqueue()
        self._device_out.download(self._host_out[: self._batch], self._stream)
        self._stream.synchronize()
        return self._host_out[:count].astype(np.float32)

    def _enqueue(self) -> None:
        if not self._engine.execute(self._stream.handle.value):
            raise StageError(f"TensorRT failed to run {self._title}")

    def _set_batch(self, batch: int) -> None:
        if batch != self._batch:
            self._engine.set_shape(self._input, (batch, *self._host_in.shape[1:]))
            self._batch = batch

    def _tensors(self) -> tuple[Tensor, Tensor]:
        tensors = self._engine.tensors()
        inputs, outputs = ([tensor for tensor in tensors if tensor.is_input is side] for side in (True, False))
        if len(inputs) != 1 or len(outputs) != 1:
            raise StageError(f"{self._title} has {len(inputs)} inputs and {len(outputs)} outputs, want one of each")
        return inputs[0], outputs[0]

    def _buffers(self, tensor: Tensor) -> tuple[NDArray[np.generic], DeviceBuffer]:
        """Host and device memory for the largest batch of a tensor, which the context is told of."""
        host = pinned(self._gpu, (self.largest, *tensor.shape[1:]), tensor.dtype)
        host[...] = 0
        device = DeviceBuffer(self._gpu, host.nbytes)
        self._engine.set_address(tensor, device.address)
        return host, device


def load(artifact: Artifact, *, threads: int) -> TensorRTRunner:
    """A runner for an engine; `threads` means nothing to a GPU.

    Raises:
        MissingExtra: TensorRT is not installed.
        StageError: no GPU answers, or TensorRT refuses the file.
    """
    return load_engine(artifact.path)


def load_engine(path: Path) -> TensorRTRunner:
    """Load as `load`, from a path."""
    return TensorRTRunner(path.read_bytes(), path.name)


def unavailable() -> str | None:
    """Return why engines can neither be built nor run here; None if they can."""
    try:
        _tensorrt()
    except MissingExtra:
        return "TensorRT is not installed here"
    return None if open_gpu() else "no NVIDIA GPU answers here"


def interleaved(
    runners: Sequence[TensorRTRunner], images: NDArray[np.float32], *, runs: int, warmup: int = 30
) -> list[CallTimes]:
    """Time engines in turn on the same images, so that clocks that drift and neighbours that disturb hit all alike.

    Raises:
        StageError: the images are more than an engine takes at once.
    """
    for runner in runners:
        runner.prepare(images)
        for _ in range(warmup):
            runner.step()
    steps: list[list[tuple[float, float, float]]] = [[] for _ in runners]
    for round_number in range(runs):
        first = round_number % len(runners)
        for index in [*range(first, len(runners)), *range(first)]:
            steps[index].append(runners[index].step())
    return [CallTimes(*(tuple(part) for part in zip(*own, strict=True))) for own in steps]


def _tensorrt():  # type: ignore[no-untyped-def]  # noqa: ANN202  the package has no types
    try:
        import tensorrt
    except ImportError as error:
        raise MissingExtra("tensorrt", extra="tensorrt", needed_for="running a TensorRT engine") from error
    return tensorrt
