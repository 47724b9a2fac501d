"""Measure the structure of the code against its bars: one house, every folder one layer, one place that knows a format.

    python scripts/bench_architecture.py --json bars.json
    python scripts/bench_architecture.py --golden before.json    # also runs every target; see golden_record.py

Figures are read off the source; opens are counted in a run on the embedded model. The exit code is always 0: a bar that
falls short is a finding.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench_common import Bar, arguments, at_least, at_most, report

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "compress"

_LONGEST = 400  # lines
_MOST_ENTRIES = 24  # of compress/
_MOST_OPENS = 4  # of one file, with those of its delivered copy
_OPENED_WELL = 95.0  # per cent

_LIVE = "TORCH"
"""The one member that may be asked for anywhere: has it a live module?"""

_NOT_A_NOUN = re.compile(
    r"^(what|how|why|when|where|whether|which|who|if|for|in|on|at|from|as|of|to|with|without|by|that|this|these|it|its"
    r"|there|some|so|because|while|until|after|before)\b",
    re.IGNORECASE,
)
"""Openings of a docstring that name neither what it does nor what it is of: question words, prepositions, pronouns."""


def sources(folder: Path) -> list[Path]:
    """Python files below a folder, in order."""
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imports(package: Path) -> dict[str, set[str]]:
    """For each top-level folder or module of the package, the others that its files import.

    `__main__` modules are entries: nothing imports them. What runs on a device is a program of its own, below all.
    """
    edges: dict[str, set[str]] = {}
    for path in sources(package):
        if path.name == "__main__.py":
            continue
        own = _part(path.relative_to(package).with_suffix("").parts)
        targets = edges.setdefault(own, set())
        for name in _imported(ast.parse(path.read_text(encoding="utf-8")), package.name):
            targets.add(name)
    return {own: (targets & edges.keys()) - {own} for own, targets in edges.items()}


def cycles(edges: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """Groups of two or more that reach one another (strongly connected components, Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[tuple[str, ...]] = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                groups.append(tuple(sorted(group)))

    for node in sorted(edges):
        if node not in order:
            visit(node)
    return groups


def long_files(folders: Sequence[Path]) -> list[Path]:
    """Files with more lines than a person reads in one sitting."""
    paths = [path for folder in folders for path in sources(folder)]
    return [path for path in paths if len(path.read_text(encoding="utf-8").splitlines()) > _LONGEST]


def format_branches(package: Path) -> list[str]:
    """Comparisons with a member of `Format`, and tables by one, outside `formats/`, as `file:line`."""
    asking = [path for path in sources(package) if path.relative_to(package).parts[0] != "formats"]
    return [
        f"{path.relative_to(package.parent)}:{getattr(node, 'lineno', 0)}"
        for path in asking
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if any(member != _LIVE for member in _members_asked(node))
    ]


def docstrings(package: Path) -> Iterator[tuple[str, str]]:
    """Every docstring of a module, class and function, with its place."""
    for path in sources(package):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield f"{path.relative_to(package.parent)}:{getattr(node, 'lineno', 1)}", text


def opens_badly(text: str) -> bool:
    """Whether a docstring begins with neither a verb nor a noun."""
    return _NOT_A_NOUN.match(text.lstrip("`'\"*( ")) is not None


def entries(package: Path) -> list[str]:
    """Files and folders directly in the package."""
    return sorted(path.name for path in package.iterdir() if path.name != "__pycache__")


def count_opens(log: Path) -> Counter[str]:
    """Parses of each ONNX file, by name, from what `counted_run` wrote; a delivered copy counts as the same file."""
    return Counter(Path(line).name for line in log.read_text().splitlines())


_COUNTED = """
import sys
import onnx
real, log = onnx.load_model, open(sys.argv[1], "a", buffering=1)
def load(file, *arguments, **options):
    log.write(f"{file}\\n")
    return real(file, *arguments, **options)
onnx.load = onnx.load_model = load
from compress.__main__ import main
sys.exit(main(sys.argv[2:]))
"""
"""Counts calls of `onnx.load`: every reader of this package goes through it. Sessions of a runtime read the file
themselves, one each, and are what is measured."""


def counted_run(folder: Path) -> Counter[str]:
    """Run a recipe on the embedded model, and count how often each ONNX file was parsed."""
    log = folder / "opens.txt"
    settings = ["target=raspberry_pi_4", f"output={folder}", "-q", "data.evaluation=32", "budget.images=32"]
    settings += ["measure.latency_seconds=0.05", "measure.latency_runs=5", "logger=none"]
    command = [sys.executable, "-c", _COUNTED, str(log), *settings]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    return count_opens(log)


def golden_differences(golden: Path) -> int:
    """Lines that a record of today has otherwise than `golden`."""
    from golden_record import differences, record

    known = sorted(path.stem for path in (ROOT / "conf" / "target").glob("*.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        lines = differences(json.loads(golden.read_text()), record(known, Path(folder), seed=0))
    print("\n".join(lines))
    return len(lines)


def main(typed: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(typed)
    groups, branches, long = cycles(imports(PACKAGE)), format_branches(PACKAGE), long_files([PACKAGE])
    texts = list(docstrings(PACKAGE))
    badly = [f"{place} {text.splitlines()[0]}" for place, text in texts if opens_badly(text)]
    bars: list[Bar] = [
        at_most("package cycles", len(groups), 0, ""),
        at_most(f"files over {_LONGEST} lines", len(long), 0, ""),
        at_most("format branches outside formats/", len(branches), 0, ""),
        at_most("entries in compress/", len(entries(PACKAGE)), _MOST_ENTRIES, ""),
        at_least("docstrings that open with a verb or noun", 100 * (1 - len(badly) / len(texts)), _OPENED_WELL, "%"),
    ]
    if not options.static:
        with tempfile.TemporaryDirectory() as folder:
            opens = counted_run(Path(folder))
        most, times = max(opens.items(), key=lambda pair: pair[1], default=("none", 0))
        bars.append(at_most(f"parses of one ONNX file in a run ({most})", times, _MOST_OPENS, ""))
    if options.golden is not None:
        bars.append(at_most("lines of the golden record that differ", golden_differences(options.golden), 0, ""))
    listed = {"cycle": map(", ".join, groups), "long": map(str, long), "branch": branches, "docstring": badly}
    if options.list:
        print("\n".join(f"{kind}  {line}" for kind, lines in listed.items() for line in lines))
    report(bars, options.json)


def _part(names: Sequence[str]) -> str:
    return "device.agent" if tuple(names[:2]) == ("device", "agent") else names[0]


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Top-level parts of the package that a module imports, wherever in it."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == package else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (_part(name.split(".")[1:]) for name in names if name.startswith(f"{package}."))


def _members_asked(node: ast.AST) -> list[str]:
    """Members of `Format` that a comparison, a `match` or a table asks for."""
    parts: list[ast.AST] = []
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.MatchValue):
        parts = [node.value]
    elif isinstance(node, ast.Dict):
        parts = [key for key in node.keys if key is not None]
    parts += [item for part in parts if isinstance(part, ast.Tuple | ast.List | ast.Set) for item in part.elts]
    return [
        part.attr
        for part in parts
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "Format"
    ]


def _parser() -> argparse.ArgumentParser:
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--golden", type=Path, metavar="FILE", help="a record of scripts/golden_record.py")
    parser.add_argument("--static", action="store_true", help="run nothing, read the source only")
    parser.add_argument("--list", action="store_true", help="print every place that falls short")
    return parser


if __name__ == "__main__":
    main()
