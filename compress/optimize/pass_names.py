"""Names of the passes, apart from their code, which needs ONNX: the configuration is checked without it."""

from __future__ import annotations

from typing import Literal

__all__ = ["PORTABLE", "PassName"]

PassName = Literal["onnxscript", "onnxslim", "ort_basic", "hardswish", "saturation", "pooling"]

PORTABLE: tuple[PassName, ...] = ("onnxscript", "onnxslim", "ort_basic", "hardswish", "saturation", "pooling")
"""In the order they are tried; their results consist of ONNX operators."""
