"""Closeness of two models' outputs, each output on its own: boxes in hundreds would drown scores below 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.core.errors import ParityError
from compress.core.io import Array, Arrays

__all__ = ["ClosenessMeter", "OutputCloseness", "same_answers"]


@dataclass(frozen=True)
class OutputCloseness:
    """Closeness of one output to the reference's on the same samples.

    Attributes:
        sqnr_db: 10 log10(sum of squared reference values / sum of squared differences); inf if equal.
        max_abs_error: largest absolute difference of any value.
        agreement: share of equal answers: arg-max over the classes of a row or map, equality of integers; None where
            an output is neither.
    """

    name: str
    sqnr_db: float
    max_abs_error: float
    agreement: float | None
    samples: int


class ClosenessMeter:
    """Adds up signal and noise per sample and output, batch by batch.

    Attributes:
        names: the outputs that are compared.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._energy: dict[str, list[NDArray[np.float64]]] = {name: [] for name in self.names}
        self._errors = dict.fromkeys(self.names, 0.0)
        self._answers: dict[str, list[NDArray[np.float64]]] = {name: [] for name in self.names}

    def update(self, reference: Arrays, candidate: Arrays) -> None:
        """Add the outputs of the same samples.

        Raises:
            ParityError: an output is missing, has another shape, or holds NaN or infinity.
        """
        for name in self.names:
            exact, other = _pair(name, reference, candidate)
            wide = exact.reshape(len(exact), -1).astype(np.float64)
            error = other.reshape(len(other), -1).astype(np.float64) - wide
            self._energy[name].append(np.stack([(wide**2).sum(axis=1), (error**2).sum(axis=1)], axis=1))
            self._errors[name] = max(self._errors[name], float(np.abs(error).max(initial=0.0)))
            answers = same_answers(exact, other)
            if answers is not None:
                self._answers[name].append(answers)

    def result(self) -> tuple[OutputCloseness, ...]:
        """Closeness of every output over all samples so far.

        Raises:
            ParityError: there were none.
        """
        return tuple(self._output(name) for name in self.names)

    def sample_sqnr_db(self, name: str) -> NDArray[np.float64]:
        """Signal-to-noise ratio of each sample on its own, `[n]`: which samples the models disagree on most."""
        energy = np.concatenate(self._energy[name])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = 10 * np.log10(energy[:, 0] / energy[:, 1])
        return np.where(energy[:, 1] == 0, np.inf, ratio)

    def _output(self, name: str) -> OutputCloseness:
        samples = sum(len(energy) for energy in self._energy[name])
        if not samples:
            raise ParityError("no samples to compare", fix="give at least one calibration sample")
        signal, noise = np.sum([energy.sum(axis=0) for energy in self._energy[name]], axis=0)
        answers = np.concatenate(self._answers[name]).mean() if self._answers[name] else None
        return OutputCloseness(
            name, _decibels(signal, noise), self._errors[name], None if answers is None else float(answers), samples
        )


def same_answers(reference: Array, candidate: Array) -> NDArray[np.float64] | None:
    """Share of equal answers per sample, `[n]`; None for an output that has none.

    A row of at least two scores has one answer and a map `[n, classes, height, width]` one per pixel; integers and
    truth values are answers themselves. A list of boxes `[n, rows, columns]` has none that an arg-max would find.
    """
    if not np.issubdtype(reference.dtype, np.floating):
        equal = reference == candidate
    elif reference.ndim in (2, 4) and reference.shape[1] > 1:
        equal = reference.argmax(axis=1) == candidate.argmax(axis=1)
    else:
        return None
    shares: NDArray[np.float64] = np.asarray(equal).reshape(len(reference), -1).mean(axis=1)
    return shares


def _pair(name: str, reference: Arrays, candidate: Arrays) -> tuple[Array, Array]:
    for outputs in (reference, candidate):
        if name not in outputs:
            raise ParityError(f"output {name!r} is missing; there are {', '.join(outputs) or 'none'}")
        values = outputs[name]
        if np.issubdtype(values.dtype, np.floating) and not bool(np.isfinite(values).all()):
            raise ParityError(f"output {name!r} holds NaN or infinity")
    exact, other = reference[name], candidate[name]
    if exact.shape != other.shape:
        raise ParityError(f"output {name!r} has shape {list(other.shape)}, the reference {list(exact.shape)}")
    return exact, other


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
