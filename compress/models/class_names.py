"""Names of a model's outputs, where the model carries them: pretrained weights, an ONNX file, a run folder."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from compress.models.configs import FileModel, ModelConfig, TorchvisionModel
from compress.support.plain_json import NotJson, parse_json
from compress.support.reading import is_file, read_bytes

__all__ = ["class_names"]

_KEYS = ("classes", "labels", "names")
"""Of an ONNX file's metadata; `names` is what Ultralytics writes: a dict of number to name."""

_LARGEST_MANIFEST = 16 << 20
_LARGEST_ONNX = 1 << 31  # bytes of a protobuf message; what is larger is refused when the model is loaded
_LONGEST_LITERAL = 1 << 20
"""Characters of names as Python prints them: 20,000 names of 50."""


def class_names(config: ModelConfig) -> tuple[str, ...] | None:
    """The names in the order of the outputs; None where the model does not tell."""
    if isinstance(config, TorchvisionModel):
        return _of_weights(config)
    if isinstance(config, FileModel):
        return _of_manifest(config.path) or _of_onnx(config.path)
    return None


def _of_weights(config: TorchvisionModel) -> tuple[str, ...] | None:
    """Categories of torchvision's pretrained weights; they come with the package, nothing is downloaded."""
    from torchvision import models

    if config.weights is None:
        return None
    try:
        chosen = models.get_model_weights(config.name)[config.weights]
    except (KeyError, ValueError):  # loading the model says what is wrong with the name
        return None
    return _names(chosen.meta.get("categories"))


def _of_manifest(path: Path) -> tuple[str, ...] | None:
    """The classes in the manifest of the run that delivered the file."""
    manifest = path.parent / "manifest.json"
    try:
        if not is_file(path):
            return None
        content = parse_json(read_bytes(manifest, _LARGEST_MANIFEST))
    except (OSError, NotJson):  # somebody else's file of that name
        return None
    if not isinstance(content, dict):
        return None
    files = content.get("files")
    listed = isinstance(files, list) and any(isinstance(one, dict) and one.get("path") == path.name for one in files)
    return _names(content.get("classes")) if listed else None


def _of_onnx(path: Path) -> tuple[str, ...] | None:
    if path.suffix.lower() != ".onnx" or not is_file(path):
        return None
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        if path.stat().st_size > _LARGEST_ONNX:
            return None
        model = onnx.load(path, load_external_data=False)
    except (OSError, ValueError, DecodeError):  # loading the model says what is wrong with the file
        return None
    entries = {entry.key: entry.value for entry in model.metadata_props}
    named = (_names(_literal(entries[key])) for key in _KEYS if key in entries)
    return next((names for names in named if names), None)


def _literal(text: str) -> object:
    """JSON, or the literal Python prints of a list or dict."""
    try:
        return parse_json(text)
    except NotJson:
        pass
    try:
        return ast.literal_eval(text) if len(text) <= _LONGEST_LITERAL else None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, SystemError):
        return None


def _names(value: object) -> tuple[str, ...] | None:
    """A list of names, or a dict of them by number."""
    if isinstance(value, dict):
        by_number = {key if isinstance(key, str) else repr(key): name for key, name in value.items()}
        value = [by_number.get(str(number)) for number in range(len(by_number))]
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(name, str) for name in value):
        return None
    return tuple(value) or None
