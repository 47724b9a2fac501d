"""The contract of a decoder: from a model's outputs to boxes with scores and labels, in pixels of its input plane."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from compress.core.errors import ConfigError
from compress.core.io import Array, Arrays, Signature, TensorSpec
from compress.tasks.base import NoFit, finite_output, plane_size
from compress.tasks.detection.candidates import Candidates

__all__ = ["Decoder", "fixed_plane", "is_list", "named", "rows_of", "same_size", "sigmoid", "squeezed"]


class Decoder(BaseModel, abc.ABC):
    """Decoder of the boxes in the outputs of a detector. Fields are options.

    Attributes:
        suppressed: no two boxes of one object come out, so that none are suppressed afterwards.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    suppressed: ClassVar[bool] = False

    @abc.abstractmethod
    def fit(self, signature: Signature, classes: int) -> None:
        """Raise `NoFit`, with what would be read, where the outputs do not have the shapes."""

    @abc.abstractmethod
    def decode(self, outputs: Arrays, signature: Signature, classes: int, threshold: float) -> list[Candidates]:
        """Boxes of each sample that are surer than `threshold`, in pixels of the input plane.

        Raises:
            StageError: an output holds NaN.
        """

    def compared(self, signature: Signature) -> tuple[str, ...]:
        """Names of the outputs that may be compared number by number."""
        return tuple(spec.name for spec in signature.outputs)


def fixed_plane(signature: Signature) -> tuple[int, int]:
    """Height and width of the picture that the model takes.

    Raises:
        NoFit: it has no fixed size.
    """
    plane = plane_size(signature)
    if plane is None:
        raise NoFit("an input [channels, height, width] of a fixed size")
    return plane


def same_size(size: int | None, wanted: int) -> bool:
    """Tell whether an axis may have that many elements; a free one may."""
    return size is None or size == wanted


def rows_of(outputs: Arrays, name: str, columns: int) -> NDArray[np.float32]:
    """An output `[n, rows, columns]`, `[n, columns, rows]`, or with axes of one element between, as the first."""
    values = finite_output(outputs, name)
    shape = squeezed(values.shape[1:], keep=2)
    values = values.reshape(len(values), *[size or 0 for size in shape])
    if values.shape[2] != columns:
        values = np.swapaxes(values, 1, 2)
    return values.astype(np.float32)


def is_list(spec: TensorSpec, columns: int, rows: int | None = None) -> bool:
    """Tell whether an output may be a list of `rows` (default: any number) with so many columns, either axis first."""
    shape = squeezed(spec.shape, keep=2)
    if len(shape) != 2:
        return False
    turned = (shape, shape[::-1])
    return any(width == columns and (rows is None or same_size(count, rows)) for count, width in turned)


def squeezed(shape: Sequence[int | None], keep: int) -> tuple[int | None, ...]:
    """A shape without axes of one element, the first of them first, as long as more than `keep` axes are left."""
    sizes = list(shape)
    while len(sizes) > keep and 1 in sizes:
        sizes.remove(1)
    return tuple(sizes)


def named(specs: Sequence[TensorSpec], name: str) -> TensorSpec:
    """The output an option names.

    Raises:
        ConfigError: there is none.
    """
    for spec in specs:
        if spec.name == name:
            return spec
    raise ConfigError(
        f"task.decoder names the output {name!r}, which the model does not give",
        fix=f"choose one of {', '.join(spec.name for spec in specs)}",
    )


def sigmoid(values: Array) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)), without overflow."""
    wide = values.astype(np.float64)
    return (0.5 * (1 + np.tanh(0.5 * wide))).astype(np.float32)
