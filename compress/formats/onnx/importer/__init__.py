"""ONNX as a source for the stages that work on modules: read the file, build the network it describes."""

from __future__ import annotations

from compress.formats.onnx.importer.importer import KNOWN_OPERATORS, onnx_to_module

__all__ = ["KNOWN_OPERATORS", "onnx_to_module"]
