"""What the quantization tests share."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from recipes import export_onnx, make_lively, make_recipe, quantize_module, sqnr_db

from compress.core.artifact import InputSpec


@pytest.fixture
def kit(tmp_path):
    class Kit:
        recipe = staticmethod(make_recipe)
        quantize = staticmethod(quantize_module)
        lively = staticmethod(make_lively)
        sqnr = staticmethod(sqnr_db)
        spec = InputSpec((3, 16, 16))

        @staticmethod
        def export(graph, spec) -> Path:
            return export_onnx(copy.deepcopy(graph), spec, tmp_path / "model.onnx")

    return Kit
