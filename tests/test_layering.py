"""The dependency direction, read from the imports themselves.

types, errors <- files, stage, target, budget <- graph, runtimes, quantization, data, models <- stages, measure
    <- pipeline, store, execute, deliver <- report, config <- run <- __main__
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from doubles import ROOT

PACKAGE = ROOT / "compress"

# A module may import the layers before its own, and its own layer.
LAYERS = [
    {"device.agent", "quantities"},
    {"allocator", "chance", "intervals", "errors", "types", "quiet", "garbage", "observe", "child", "signals", "io"}
    | {"working_folder"},
    {"arguments", "reading", "command", "torch_internals", "archives", "forked"},
    {"reserved_names", "scratch", "files", "plain_yaml", "plain_json"},
    {"serialize", "resources", "versions", "target", "stage", "budget", "roofline"},
    {
        "formats",
        "graph",
        "captures",
        "unlift",
        "weights",
        "parity",
        "judge",
        "runtimes",
        "quantization",
        "onnxfile",
        "litert",
        "edgetpu",
        "onnx_import",
        "data",
        "tasks",
        "models",
        "training",
        "pruning",
        "gates",
    },
    {"engine"},
    {"measure", "persist", "estimate", "optimize"},
    {"profile"},
    {"stages"},
    {"pipeline", "store", "store_size"},
    {"execute"},
    {"results"},
    {
        "analyses",
        "attach",
        "calibrate",
        "record",
        "git_commit",
        "deliver",
        "device",
        "report",
        "cli",
        "cache",
        "compose",
        "config_limits",
        "config_source",
        "option_source",
        "config",
        "loggers",
    },
    {"request"},
    {"run", "doctor", "preflight"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


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
    own = layer(".".join(("compress", *path.relative_to(PACKAGE).with_suffix("").parts)))
    own = "__main__" if path.name == "__main__.py" else own
    assert own in RANK, f"{own} has no layer: give it one"
    for name in imported(path):
        if name.startswith("compress.") and layer(name) in RANK:
            assert RANK[layer(name)] <= RANK[own], f"{path.name} imports {name}, which lies above it"


@pytest.mark.parametrize("path", (PACKAGE / "stages").rglob("*.py"), ids=lambda p: p.stem)
def test_stages_do_not_import_each_other(path):
    assert not [name for name in imported(path) if name.startswith("compress.stages")]


@pytest.mark.parametrize("path", (PACKAGE / "stages").rglob("*.py"), ids=lambda p: p.stem)
def test_stages_do_not_measure(path):
    assert not [name for name in imported(path) if name.startswith(("compress.measure", "compress.report"))]


@pytest.mark.parametrize("module", ["compress", "compress.cli", "compress.compose", "compress.config", "compress.run"])
def test_start_up_is_free_of_torch(module):
    script = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
