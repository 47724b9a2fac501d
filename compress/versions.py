"""What decides a result besides its inputs: library versions and this package's own code."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["source_digest", "source_files", "tool_versions"]

_TOOLS = (
    "torch",
    "torchvision",
    "torchao",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "onnxslim",
    "numpy",
    "hydra-core",
    "torch-pruning",
    "tensorrt",
)


def tool_versions() -> dict[str, str]:
    """Installed versions of the libraries that compute, export or run models."""
    return {name: _version(name) for name in ("edge-compress", *_TOOLS)}


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Hex SHA-256 over this package's Python and YAML files: results of older code are not reused."""
    root = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for path in source_files(root):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def source_files(root: Path) -> list[Path]:
    """Everything below the package that decides what it computes: code, placement policies, tables of parsers."""
    return sorted([*root.rglob("*.py"), *root.rglob("*.yaml")])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
