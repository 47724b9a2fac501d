"""Layers of a built engine, as TensorRT's own inspector lists them."""

import json
from typing import Any, Dict, List, Sequence

from ..values import Json


def layer_list(tensorrt: Any, content: bytes, log: Any) -> List[Json]:
    """Name, type and precision of every layer of an engine, by TensorRT's own inspector (since 8.2)."""
    engine = tensorrt.Runtime(log).deserialize_cuda_engine(content)
    if engine is None or not hasattr(engine, "create_engine_inspector"):
        return []
    text = engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON)
    found = [layer for layer in json.loads(text).get("Layers", []) if isinstance(layer, dict)]
    return [
        {
            "name": layer.get("Name", ""),
            "type": layer.get("LayerType", ""),
            "precision": layer_precision(layer),
            "tactic": layer.get("TacticName", ""),
        }
        for layer in found
    ]


def layer_precision(layer: Json) -> str:
    """Precision of a layer's input; the format is like `Thirty-two wide channel vectorized row major Int8 format`."""
    formats = " ".join(str(entry.get("Format/Datatype", "")) for entry in layer.get("Inputs", [])[:1]).lower()
    for mark, precision in (("int8", "int8"), ("fp16", "fp16"), ("half", "fp16"), ("fp32", "fp32"), ("float", "fp32")):
        if mark in formats:
            return precision
    return "other"


def count_precisions(layers: Sequence[Json]) -> Dict[str, int]:
    """Number of layers by precision, data movement (`Reformat`, `NoOp`) counted apart."""
    counts: Dict[str, int] = {}
    for layer in layers:
        moves = layer["type"] in ("Reformat", "NoOp", "Shuffle", "Constant")
        key = "moving data" if moves else layer["precision"]
        counts[key] = counts.get(key, 0) + 1
    return counts
