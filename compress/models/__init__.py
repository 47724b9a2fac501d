"""Models the user brings: one configuration per kind, one `Artifact` for the pipeline.

Importing this package imports no torch; `load_model` does.
"""

from __future__ import annotations

from compress.models.class_names import class_names
from compress.models.configs import (
    DigitsModel,
    FactoryModel,
    FileModel,
    InputConfig,
    ModelConfig,
    TorchvisionModel,
)
from compress.models.load import is_tflite, load_model, model_digest, self_contained, source_format

__all__ = [
    "DigitsModel",
    "FactoryModel",
    "FileModel",
    "InputConfig",
    "ModelConfig",
    "TorchvisionModel",
    "class_names",
    "is_tflite",
    "load_model",
    "model_digest",
    "self_contained",
    "source_format",
]
