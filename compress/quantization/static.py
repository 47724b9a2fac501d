"""Static INT8 from a float graph to a calibrated one, with whatever recovery is asked for, each in its place.

    equalize, smooth       on the float graph: the same function with weights and activations that are easier to round
    prepare, calibrate     ranges of the graph as it is now
    adaptive rounding      needs the ranges
    bias correction        last: it would undo a shift of nearest rounding that adaptive rounding does not make

One path for every stage that makes static INT8, so that a rung of the accuracy ladder and the same options typed by
hand give the same file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import Literal, TypeAlias

import torch
from torch import fx

from compress.core.artifact import Precision
from compress.core.errors import ParityError, StageError, names_near
from compress.core.stage import Progress, Split
from compress.formats.parity import TOLERANCES, FidelityMeter
from compress.graph.capture import call_nodes, layer_name
from compress.quantization.joins import narrow_parts
from compress.quantization.placement import PlacementQuantizer, Recipe
from compress.quantization.ptq import calibrate, prepare, set_mode
from compress.quantization.tensor_quantizer import Mode

__all__ = ["Calibrated", "CalibrationImages", "Equalize", "Recovery", "layers_matching", "quantize"]


_HELD = 8
"""Images on which the graph with observers has to compute what it did without."""

Batches: TypeAlias = Callable[[], Iterator[torch.Tensor]]
Equalize: TypeAlias = Literal["none", "weights", "activations"]


@dataclass(frozen=True)
class Recovery:
    """Steps for accuracy beside the choice of ranges.

    Attributes:
        equalize: `weights` across layers (Nagel et al. 2019), for one scale per layer, or the channels of `activations`
            (Meller et al. 2019), for one weight scale per channel.
        smooth: how much of the activations' spread moves into the weights, from 0 to 1 (SmoothQuant, Xiao et al. 2023);
            None for none.
        rounding: `nearest`, or `adaptive` to each layer's output (Nagel et al. 2020).
        bias_correction: undo the shift of each channel's mean (Nagel et al. 2019), as far as the images agree on it.
    """

    equalize: Equalize = "none"
    smooth: float | None = None
    rounding: Literal["nearest", "adaptive"] = "nearest"
    bias_correction: bool = False


@dataclass(frozen=True)
class CalibrationImages:
    """A split as batches of images; each call starts over.

    Attributes:
        split: labels are not looked at.
        batch_size: images at a time; memory depends on it and not on their number.
    """

    split: Split
    batch_size: int

    def __call__(self) -> Iterator[torch.Tensor]:
        """Batches float32 `[N, C, H, W]`."""
        for batch in self.split.batches(self.batch_size):
            yield torch.from_numpy(batch.images)

    def shown(
        self, progress: Progress, description: str, at_most: int | None = None
    ) -> Callable[[], Iterator[torch.Tensor]]:
        """The same batches (the first `at_most`), each reading with a bar."""
        count = len(self) if at_most is None else min(at_most, len(self))
        return lambda: progress.track(islice(self(), count), description, count)

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.split) // self.batch_size)


@dataclass(frozen=True)
class Calibrated:
    """A graph whose scales are found.

    Attributes:
        prepared: ready to simulate, to train or to convert.
        did: what each recovery step changed, one phrase each.
    """

    prepared: fx.GraphModule
    did: tuple[str, ...]


def quantize(
    graph: fx.GraphModule, recipe: Recipe, recovery: Recovery, images: CalibrationImages, progress: Progress
) -> Calibrated:
    """Recover, prepare and calibrate. Changes `graph`, a `float_graph`.

    Raises:
        StageError: no images, or NaN or infinity in weights or activations (names the layer).
    """
    first = _first(images)
    unrounded = _outputs(graph, first)
    did = _rescale(graph, recovery, images.shown(progress, "looking at activations"))
    if recovery.bias_correction:
        from compress.quantization.recovery.bias_correction import add_missing_biases

        add_missing_biases(graph)
    reference = copy.deepcopy(graph) if recovery.bias_correction else None
    prepared = prepare(graph, recipe)
    set_mode(prepared, Mode.OFF)
    _require_equal(unrounded, _outputs(prepared, first))
    set_mode(prepared, Mode.OBSERVE)
    calibrate(prepared, images.shown(progress, f"calibrating on {len(images.split)} images")())
    for sentence in narrow_parts(prepared):
        progress.log(sentence)
    if recovery.rounding == "adaptive":
        did.append(_round(prepared, images, progress))
    if reference is not None:
        did.append(_correct(prepared, reference, images.shown(progress, "correcting biases")))
    return Calibrated(prepared, tuple(did))


def layers_matching(graph: fx.GraphModule, recipe: Recipe, patterns: Sequence[str]) -> frozenset[str]:
    """Names of the quantizable layers of a `float_graph` that `fnmatch` patterns select, enclosing modules included.

    Raises:
        StageError: a pattern that selects nothing; lists near names.
    """
    quantizer = PlacementQuantizer(recipe)
    names = list(dict.fromkeys(layer_name(node) for node in call_nodes(graph) if quantizer.rule_of(node)))
    layers: set[str] = set()
    for pattern in patterns:
        matching = {name for name in names if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")}
        if not matching:
            raise StageError(
                f"keep_float pattern {pattern!r} matches no layer that would be quantized",
                fix=names_near(pattern, names),
            )
        layers |= matching
    return frozenset(layers)


def _first(images: CalibrationImages) -> torch.Tensor | None:
    """The first few images; None where there are none."""
    return next((batch[:_HELD] for batch in images()), None)


@torch.no_grad()
def _outputs(graph: fx.GraphModule, images: torch.Tensor | None) -> torch.Tensor | None:
    return None if images is None else graph(images)


def _require_equal(expected: torch.Tensor | None, computed: torch.Tensor | None) -> None:
    """Rescaling and observers round nothing; raises `ParityError` where they change something."""
    if expected is None or computed is None:
        return
    meter = FidelityMeter()
    meter.update(expected.detach().numpy(), computed.detach().numpy())
    problem = TOLERANCES[Precision.FP32].violation(meter)
    if problem:
        raise ParityError(f"the network changed before anything was rounded, on {len(expected)} samples: {problem}")


def _rescale(graph: fx.GraphModule, recovery: Recovery, images: Batches) -> list[str]:
    did = []
    if recovery.equalize == "weights":
        from compress.quantization.recovery.equalize import equalize

        did.append(f"equalized the weights of {_counted(equalize(graph, images), 'layer')}")
    if recovery.equalize == "activations":
        from compress.quantization.recovery.balance import balance

        did.append(f"equalized the inputs of {_counted(balance(graph, images), 'layer')}")
    if recovery.smooth is not None:
        from compress.quantization.recovery.smooth import smooth

        did.append(f"smoothed {_counted(smooth(graph, images, alpha=recovery.smooth), 'normalisation')}")
    return did


def _correct(prepared: fx.GraphModule, reference: fx.GraphModule, images: Batches) -> str:
    from compress.quantization.recovery.bias_correction import correct_biases

    return f"corrected the biases of {_counted(correct_biases(prepared, reference, images), 'layer')}"


def _round(prepared: fx.GraphModule, images: CalibrationImages, progress: Progress) -> str:
    from compress.quantization.recovery.adaround import AdaRoundOptions, round_adaptively

    gains = round_adaptively(prepared, images, AdaRoundOptions(), progress)
    changed = sum(gain.changed for gain in gains)
    return f"rounded {_counted(gains, 'layer')} adaptively ({changed} weights not to their nearest integer)"


def _counted(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"
