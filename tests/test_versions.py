"""What stored results depend on besides their inputs."""

from __future__ import annotations

from pathlib import Path

import compress
from compress.versions import source_files

ROOT = Path(compress.__file__).parent


def test_code_policies_and_parser_tables_decide_results():
    names = {path.relative_to(ROOT).as_posix() for path in source_files(ROOT)}
    assert {
        "execute.py",
        "quantization/policies/onnxruntime.yaml",
        "onnxfile/parsers/tensorrt_8_5.yaml",
        "onnxfile/parsers/onnxruntime_1_31.yaml",
    } <= names
