"""Metadata that travels inside an exported file so that it can be used without its configuration: text by key."""

from __future__ import annotations

import json
from collections.abc import Sequence

import compress
from compress.core.artifact import InputSpec, Precision

__all__ = ["PRODUCER", "metadata"]

PRODUCER = "edge-compress"


def metadata(spec: InputSpec, precision: Precision, history: Sequence[str]) -> dict[str, str]:
    """Preprocessing, precision and origin; lists are JSON. The network takes `(pixel / 255 - mean) / std`.

    Args:
        history: names of the stages that made the file, oldest first.
    """
    return {
        "producer": f"{PRODUCER} {compress.__version__}",
        "precision": str(precision),
        "layout": "NCHW",
        "input_shape": json.dumps(list(spec.shape)),
        "channel_order": spec.channel_order,
        "mean": json.dumps(list(spec.mean)),
        "std": json.dumps(list(spec.std)),
        "history": json.dumps(list(history)),
    }
