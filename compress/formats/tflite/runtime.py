"""TFLite files, run by LiteRT (or the older tflite-runtime) on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from compress.core.errors import StageError
from compress.formats.tflite.package import find_interpreter
from compress.support.quiet import first_line, quiet_native

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from compress.core.artifact import Artifact
    from compress.formats.tflite.package import Interpreter, InterpreterModule

__all__ = ["TfliteRunner", "inner_values", "load", "open_file"]


class TfliteRunner:
    """Runs an interpreter sample by sample; NCHW floats outside, the file's own layout and integers inside."""

    def __init__(self, interpreter: Interpreter, name: str) -> None:
        self.name = name
        self._interpreter = interpreter
        self._input = _Port(interpreter.get_input_details()[0])
        self._output = _Port(interpreter.get_output_details()[0])

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([self._run(images[index : index + 1]) for index in range(len(images))])

    def _run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        self._interpreter.set_tensor(self._input.index, self._input.stored(image.transpose(0, 2, 3, 1)))
        self._interpreter.invoke()
        return self._output.real(self._interpreter.get_tensor(self._output.index))


class _Port:
    """One input or output: where it is, and how its numbers are stored."""

    def __init__(self, details: Mapping[str, object]) -> None:
        self.index = cast("int", details["index"])
        self._dtype = np.dtype(cast("type[np.generic]", details["dtype"]))
        scale, zero_point = cast("tuple[float, int]", details["quantization"])
        self._scale, self._zero_point = np.float32(scale), np.float32(zero_point)

    def stored(self, real: NDArray[np.float32]) -> NDArray[np.generic]:
        if self._dtype == np.float32:
            return np.ascontiguousarray(real)
        limits = np.iinfo(self._dtype)
        codes = real / self._scale
        np.rint(codes, out=codes)
        codes += self._zero_point
        np.clip(codes, limits.min, limits.max, out=codes)
        return np.ascontiguousarray(codes.astype(self._dtype))

    def real(self, stored: NDArray[np.generic]) -> NDArray[np.float32]:
        values = stored.astype(np.float32)
        return values if self._dtype == np.float32 else (values - self._zero_point) * self._scale


def load(artifact: Artifact, *, threads: int, xnnpack: bool = True) -> TfliteRunner:
    """The file on `threads` threads.

    Args:
        xnnpack: with the kernels that are used on a device; False takes the interpreter's own.

    Raises:
        ConfigError: no interpreter is installed.
        StageError: the interpreter refuses the file.
    """
    return open_file(artifact.path, threads=threads, xnnpack=xnnpack)


def open_file(path: Path, *, threads: int, xnnpack: bool = True) -> TfliteRunner:
    """`load`, for a file that is no artifact."""
    module, package = find_interpreter()
    try:
        with quiet_native():
            interpreter = module.Interpreter(model_path=str(path), num_threads=threads, **_resolver(module, xnnpack))
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        hint = "it was compiled for an Edge TPU" if "edgetpu" in str(error) else None
        raise StageError(f"{package} cannot load {path}: {hint or first_line(error)}") from error
    return TfliteRunner(interpreter, package)


def inner_values(path: Path, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Every tensor of a file on one image `[1, C, H, W]`, as real numbers in the file's layout.

    By the interpreter's own kernels: delegates keep what is inside to themselves.

    Raises:
        ConfigError: no interpreter is installed.
    """
    module, _ = find_interpreter()
    with quiet_native():
        interpreter = module.Interpreter(
            model_path=str(path), num_threads=1, experimental_preserve_all_tensors=True, **_resolver(module, False)
        )
        interpreter.allocate_tensors()
    entry = _Port(interpreter.get_input_details()[0])
    interpreter.set_tensor(entry.index, entry.stored(image.transpose(0, 2, 3, 1)))
    interpreter.invoke()
    values = {}
    for details in interpreter.get_tensor_details():
        port = _Port(details)
        try:
            values[str(details["name"])] = port.real(interpreter.get_tensor(port.index))
        except ValueError:  # a tensor that a kernel keeps to itself
            continue
    return values


def _resolver(module: InterpreterModule, xnnpack: bool) -> dict[str, object]:
    if xnnpack:
        return {}
    kinds = module.OpResolverType
    return {"experimental_op_resolver_type": getattr(kinds, "BUILTIN_WITHOUT_DEFAULT_DELEGATES")}  # noqa: B009
