"""Estimates of everything a run exported, with what is known from measured boards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from compress.core.artifact import Artifact
from compress.core.target import Target
from compress.formats.registry import open_file
from compress.measure.estimate.calibration import read_points, summarize
from compress.measure.estimate.roofline import Estimate, estimate
from compress.measure.unmeasured import attempt

__all__ = ["estimate_all"]


def estimate_all(target: Target, artifacts: Iterable[Artifact]) -> tuple[Estimate, ...]:
    """One estimate for each file whose layers and their arithmetic can be counted; layers are left out."""
    points = read_points(target.name)
    found = []
    for artifact in artifacts:
        known = summarize(points, artifact.precision)
        numbers = partial(estimate, factor=known.factor, band=known.band, basis=known.basis)
        layers = attempt("layers", {}, open_file(artifact).layers)
        if layers is None:
            continue
        guess = attempt("estimate", {}, partial(numbers, artifact.history[-1], layers, artifact.precision, target))
        if guess is not None:
            found.append(replace(guess, layers=()))
    return tuple(found)
