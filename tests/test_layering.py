"""The dependency direction, read from the imports themselves: one layer per folder, so no package is in a cycle."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from doubles import ROOT

PACKAGE = ROOT / "compress"

# A module may import the folders before its own, and its own. `__main__` modules are entries: they import anything, and
# nothing imports them.
LAYERS = (
    "device.agent",
    "core",
    "support",
    "graph",
    "formats",
    "models",
    "data",
    "tasks",
    "verify",
    "measure",
    "training",
    "pruning",
    "quantization",
    "optimize",
    "profile",
    "stages",
    "results",
    "report",
    "device",
    "config",
    "pipeline",
    "cache",
    "doctor",
)
RANK = {name: rank for rank, name in enumerate(LAYERS)}


def modules():
    return [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def imported(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def layer(dotted: str) -> str:
    """The name in `LAYERS`: what runs on a device is below everything, though it lies in `device`."""
    parts = dotted.split(".")
    return "device.agent" if parts[1:3] == ["device", "agent"] else parts[1]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    names = [name for name in imported(path) if name.startswith("compress.")]
    assert not [name for name in names if name.endswith("__main__")]
    if parts[-1] == "__main__":
        return
    own = layer(".".join(("compress", *parts)))
    assert own in RANK, f"{own} has no layer: give it one"
    for name in names:
        if layer(name) in RANK:
            assert RANK[layer(name)] <= RANK[own], f"{path.name} imports {name}, which lies above it"


def test_every_folder_is_a_layer():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(LAYERS) - {"device.agent"}
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("path", (PACKAGE / "stages").rglob("*.py"), ids=lambda p: p.stem)
def test_stages_do_not_import_each_other(path):
    assert not [name for name in imported(path) if name.startswith("compress.stages")]


@pytest.mark.parametrize("path", (PACKAGE / "stages").rglob("*.py"), ids=lambda p: p.stem)
def test_stages_do_not_measure(path):
    assert not [name for name in imported(path) if name.startswith(("compress.measure", "compress.report"))]


@pytest.mark.parametrize(
    "module",
    ["compress", "compress.pipeline.cli", "compress.config.compose", "compress.config.schema", "compress.pipeline.run"],
)
def test_start_up_is_free_of_torch(module):
    script = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
