"""What stored results depend on besides their inputs."""

from __future__ import annotations

from pathlib import Path

import compress
from compress.support import versions
from compress.support.versions import source_files

ROOT = Path(compress.__file__).parent


def test_code_policies_and_parser_tables_decide_results():
    names = {path.relative_to(ROOT).as_posix() for path in source_files(ROOT)}
    assert {
        "pipeline/execute.py",
        "quantization/policies/onnxruntime.yaml",
        "formats/onnx/parsers/tensorrt_8_5.yaml",
        "formats/onnx/parsers/onnxruntime_1_31.yaml",
    } <= names


def test_every_requirement_that_may_decide_a_result_is_a_tool(monkeypatch):
    """A new tool and a new version of one have a new key, whoever forgot to list them."""
    requires = [
        "torch<2.15,>=2.14",
        'A_new.Tool>=1; extra == "tflite"',
        "rich>=13",
        "ruff>=0.9; extra == 'dev'",
        "edge-compress[tflite]; extra == 'all'",
    ]
    monkeypatch.setattr(versions.metadata, "requires", lambda name: requires)
    monkeypatch.setattr(versions.metadata, "version", {"edge-compress": "1", "torch": "2", "a-new-tool": "3"}.get)
    versions.tool_versions.cache_clear()
    try:
        assert versions.tool_versions() == {"edge-compress": "1", "a-new-tool": "3", "torch": "2"}
    finally:
        versions.tool_versions.cache_clear()


def test_what_writes_and_runs_every_format_is_a_tool():
    required = {"torch", "onnx", "onnxruntime", "onnx-ir", "ai-edge-litert", "ai-edge-quantizer", "litert-torch"}
    assert required <= versions.tool_versions().keys()


def test_without_metadata_everything_installed_counts(monkeypatch):
    def missing(name):
        raise versions.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(versions.metadata, "requires", missing)
    versions.tool_versions.cache_clear()
    try:
        assert {"numpy", "torch", "pytest"} <= versions.tool_versions().keys()
    finally:
        versions.tool_versions.cache_clear()


def test_installed_versions_are_told_and_absent_ones_named():
    told = versions.tool_versions()
    assert told["numpy"] == versions.metadata.version("numpy")
    assert told.get("tensorrt", "not installed") == versions._version("tensorrt")
