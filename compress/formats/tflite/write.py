"""Writing of a module as the finished file: convert, legalise, give it its interface and its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.formats.tflite.convert import convert_module
from compress.formats.tflite.flatbuffer import pack
from compress.formats.tflite.interface import Io, embed_metadata, name_interface, set_io, state_runtime
from compress.formats.tflite.legalize import legalize
from compress.formats.tflite.network import network_of
from compress.formats.tflite.versions import minimum_runtime
from compress.formats.tflite.weights import WeightType, store_weights

if TYPE_CHECKING:
    from torch import nn

    from compress.core.artifact import InputSpec

__all__ = ["INPUT_NAME", "OUTPUT_NAME", "Form", "tflite_bytes"]

INPUT_NAME = "input"
OUTPUT_NAME = "logits"


@dataclass(frozen=True)
class Form:
    """Form in which a file is to be written.

    Attributes:
        io: element type of input and output, where the network itself is in integers.
        weights: how a float network's weights are stored.
        lacks: operators to be written as others.
    """

    io: Io = "int8"
    weights: WeightType = "float32"
    lacks: Sequence[str] = ()


def tflite_bytes(module: nn.Module, spec: InputSpec, form: Form, metadata: Mapping[str, object]) -> bytes:
    """The finished file of a module: input `input` NHWC, output `logits`, batch 1.

    Raises:
        MissingExtra: the converter is not installed.
        ModelError: the module cannot be captured.
        StageError: an operator has no form in LiteRT.
    """
    model = convert_module(module, spec, lacks=form.lacks)
    store_weights(model, form.weights)
    name_interface(model, input=INPUT_NAME, output=OUTPUT_NAME)
    set_io(model, form.io)
    embed_metadata(model, metadata)
    legalize(model)
    state_runtime(model, minimum_runtime(network_of(model).operators))
    model.description = b"edge-compress"
    return pack(model)
