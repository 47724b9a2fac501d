"""All decoders, and which of them would read a model's outputs."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from compress.core.io import Signature
from compress.tasks.base import NoFit
from compress.tasks.detection.boxes_scores import BoxesScoresDecoder
from compress.tasks.detection.centers import CentersDecoder
from compress.tasks.detection.decoder import Decoder
from compress.tasks.detection.dfl import DflDecoder
from compress.tasks.detection.grid import GridDecoder
from compress.tasks.detection.in_graph import InGraphNmsDecoder
from compress.tasks.detection.ssd import SsdDecoder

__all__ = ["AnyDecoder", "nearest_decoder", "options"]

AnyDecoder: TypeAlias = Annotated[
    GridDecoder | DflDecoder | BoxesScoresDecoder | SsdDecoder | InGraphNmsDecoder | CentersDecoder,
    Field(discriminator="kind"),
]

_COCO_ANCHORS = (
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)
"""Of YOLOv3 (Redmon & Farhadi 2018, 2.3) and YOLOv5 for COCO."""

_USUAL: tuple[Decoder, ...] = (
    GridDecoder(),
    GridDecoder(strides=(8, 16, 32, 64)),
    GridDecoder(form="yolov5", anchors=_COCO_ANCHORS),
    DflDecoder(),
    DflDecoder(bins=1),
    BoxesScoresDecoder(form="cxcywh"),
    BoxesScoresDecoder(form="cxcywh", objectness=True),
    BoxesScoresDecoder(background=True),
    CentersDecoder(),
    CentersDecoder(stride=8),
    InGraphNmsDecoder(),
    InGraphNmsDecoder(form="yxyx", normalised=True),
)
"""What people's networks give, what a shape says most about first."""


def nearest_decoder(signature: Signature, classes: int) -> Decoder | None:
    """The first of the usual decoders that would read the outputs; None if none would."""
    for decoder in _USUAL:
        try:
            decoder.fit(signature, classes)
        except NoFit:
            continue
        return decoder
    return None


def options(decoder: Decoder) -> str:
    """A decoder as one types it: `task.decoder.kind=boxes_scores task.decoder.form=cxcywh`."""
    chosen = {"kind": decoder.model_dump()["kind"], **decoder.model_dump(mode="json", exclude_defaults=True)}
    return " ".join(f"task.decoder.{name}={_text(value)}" for name, value in chosen.items())


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace(" ", "") if isinstance(value, list) else str(value)
