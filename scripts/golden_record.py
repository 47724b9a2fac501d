"""Record what every target delivers, to tell a change of structure from a change of results.

Runs the recipe of each target on the embedded model with one seed, and writes the SHA-256 of every delivered file and
the values of `report.json` and `manifest.json`, without times, versions, dates and the machine, to one JSON file, a
line for each value. On one machine two records of one revision are equal; files of another machine's kernels are not.

    python scripts/golden_record.py before.json
    python scripts/golden_record.py after.json --compare before.json     # exit code 1 where a line differs
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

Record = dict[str, object]
"""Values by where they stand: `coral/report.measurements[2].macs`."""

_SMALL = (
    "measure=quick",
    "measure.latency_warmup=1",
    "measure.latency_runs=5",
    "measure.latency_seconds=0.05",
    "data.evaluation=64",
    "budget.images=64",
    "logger=none",
)
"""Nothing recorded depends on how often something is timed; the splits are small, as every value counts alike."""

_TIMED = frozenset({"latency", "race", "seconds", "wall_seconds", "peak_rss_bytes", "slower"})
_OF_THE_MACHINE = frozenset({"host", "versions", "commit", "created", "output", "overrides", "producer"})
_VIEWS = frozenset({"report.json", "report.html", "report.md", "manifest.json"})
"""Files with dates and times in them. What is in the JSON files is recorded value by value."""

_SECONDS = re.compile(r"\b\d+\.\d+ s\b")
_VERSION = re.compile(r"\b(torch|torchscript|onnxruntime|ai-edge-litert|tflite-runtime|tensorrt) \d[\w.+-]*")


def record(targets: Iterable[str], folder: Path, seed: int) -> Record:
    """Run every target below `folder`; the values of all of them."""
    values: Record = {}
    for target in targets:
        code = _run(target, folder, seed)
        runs = sorted((folder / target).glob("*/report.json"))
        values[f"{target}/exit code"] = code
        if runs:
            values.update((f"{target}/{name}", value) for name, value in read_run(runs[-1].parent))
        print(f"{target}: exit code {code}, {sum(name.startswith(f'{target}/') for name in values)} values", flush=True)
    return values


def read_run(folder: Path) -> Iterator[tuple[str, object]]:
    """The values of one run folder that its code, data and seed decide."""
    report = json.loads((folder / "report.json").read_text())
    manifest = json.loads((folder / "manifest.json").read_text())
    hosts = _names_of(report["host"])
    for file in sorted(manifest["files"], key=lambda entry: str(entry["path"])):
        if file["path"] not in _VIEWS:
            yield f"files/{file['path']}", file["sha256"]
    manifest["files"] = {file.pop("path"): file for file in manifest["files"] if file["path"] not in _VIEWS}
    report.pop("files")
    for name, document in (("report", report), ("manifest", manifest)):
        yield from ((f"{name}{path}", _plain(value, hosts)) for path, value in _leaves(document))


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """One line for a value that is gone (-) and one for a value that is new (+), in the order of their places."""
    lines = []
    for name in sorted({*old, *new}):
        if name not in new or name not in old or old[name] != new[name]:
            lines += [f"- {name}: {json.dumps(old[name])}"] if name in old else []
            lines += [f"+ {name}: {json.dumps(new[name])}"] if name in new else []
    return lines


def _run(target: str, folder: Path, seed: int) -> int:
    """The command in a process of its own; its exit code. 1 is a budget that was missed, or a stage that failed."""
    settings = [f"target={target}", f"seed={seed}", f"output={folder}", "cache_gib=20", *_SMALL]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-m", "compress", "-q", *settings], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode not in (0, 1) or not (folder / target).is_dir():
        raise SystemExit(f"{target}: exit code {done.returncode}\n{done.stderr.strip()}")
    return done.returncode


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every plain value of a document, with its place; what is empty is a value."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            if key not in _TIMED | _OF_THE_MACHINE:
                yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def _names_of(host: Mapping[str, object]) -> list[str]:
    """How texts call the machine, longest first."""
    isa = host["isa"]
    first = f", {isa[0]}" if isinstance(isa, list) and isa else ""
    return [f"{host['cpu']}{first}", str(host["cpu"])]


def _plain(value: object, hosts: Sequence[str]) -> object:
    """A text without versions, times and the machine's name; any other value as it is."""
    if not isinstance(value, str):
        return value
    for host in hosts:
        value = value.replace(host, "<host>")
    return _SECONDS.sub("<time>", _VERSION.sub(r"\1 <version>", value))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 1 where the record differs from the one it is compared with."""
    options = _parser().parse_args(arguments)
    known = sorted(path.stem for path in (ROOT / "conf" / "target").glob("*.yaml"))
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        values = record(options.target or known, Path(folder), options.seed)
    options.record.write_text(json.dumps(values, indent=0, sort_keys=True) + "\n")
    if options.compare is None:
        return 0
    old = json.loads(options.compare.read_text())
    if options.target:
        old = {name: value for name, value in old.items() if name.partition("/")[0] in options.target}
    lines = differences(old, values)
    print("\n".join(lines) if lines else f"{len(values)} values, all equal")
    return 1 if lines else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("record", type=Path, help="the JSON file to write")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="print what differs from this record")
    parser.add_argument("--target", nargs="+", metavar="NAME", help="only these; default all of conf/target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="where the runs lie meanwhile; default the system's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
