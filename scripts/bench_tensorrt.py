"""TensorRT on a real GPU: our INT8 placement against TensorRT's own, against FP16, and both against torch.

    python scripts/bench_tensorrt.py make --models FOLDER              # the ONNX files and golden outputs; needs torch
    python scripts/pack_tensorrt --models FOLDER --output PARTS        # for a GPU machine without network
    FOLDER/python scripts/tensorrt_bench/measure.py ...                # there: build, time, write tensorrt.json
    python scripts/bench_tensorrt.py judge --from FOLDER [--json PATH] # the bars

`measure.py` times all engines of one network and batch in turn, so that clocks that drift hit all alike: compare only
within a group. Its figures are of the GPU it ran on (an H100, say), not of a Jetson.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench_common import Bar, arguments, at_least, at_most, report
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))

FP16, OURS, IMPLICIT = "fp16", "int8 tensorrt", "int8 implicit"
NETS = ("resnet18", "resnet50", "mobilenet_v2")
BATCHES = (1, 32)
WANTED_SPEED = {"resnet18": 1.25, "resnet50": 1.15}
NO_SLOWER = 1.03

Rows = dict[str, dict[str, object]]


def bars(measured: dict[str, dict[str, Rows]]) -> list[Bar]:
    groups = measured["groups"]
    found = []
    for net in NETS:
        for batch in BATCHES:
            rows = groups.get(f"{net}, batch {batch}", {})
            ratio = _ratio(rows, OURS, IMPLICIT)
            found.append(at_most(f"{net} batch {batch}: our INT8 / implicit", ratio, NO_SLOWER, "x"))
    for net, speed in WANTED_SPEED.items():
        ratio = _ratio(groups.get(f"{net}, batch 32", {}), FP16, OURS)
        found.append(at_least(f"{net} batch 32: FP16 / our INT8", ratio, speed, "x"))
    for name, rows in groups.items():
        found += _exactness(name, rows)
    return found


def recommended(rows: Rows) -> str | None:
    """The engine that the race hands over: the faster of FP16 and our INT8, where both were timed."""
    raced = [title for title in (FP16, OURS) if title in rows]
    return min(raced, key=lambda title: _ms(rows, title)) if len(raced) == 2 else None


def _exactness(name: str, rows: Rows) -> list[Bar]:
    found = []
    for title, row in rows.items():
        output = row["output"]
        if not isinstance(output, dict) or title == IMPLICIT:  # implicit INT8 has scales of its own
            continue
        if title.startswith("int8"):
            found.append(at_least(f"{name}, {title}: output against torch INT8", output["sqnr_db"], 25, "dB"))
        else:
            limit = 1e-3 if title == "fp32" else 1e-2
            found.append(at_most(f"{name}, {title}: output against torch", output["relative"], limit, "of the largest"))
    return found


def _ratio(rows: Rows, first: str, second: str) -> float | None:
    return _ms(rows, first) / _ms(rows, second) if first in rows and second in rows else None


def _ms(rows: Rows, title: str) -> float:
    value = rows[title]["median_ms"]
    assert isinstance(value, float)
    return value


def show(measured: dict[str, dict[str, Rows]]) -> None:
    engines = measured["engines"]
    table = Table("network", "engine", "compute ms", "vs FP16", "copying ms", "layers", title=str(measured["machine"]))
    for name, rows in measured["groups"].items():
        for title, row in rows.items():
            built = engines.get(f"{name.rpartition(',')[0] if name.count(',') > 1 else name}: {title}", {})
            speed = _ratio(rows, FP16, title)
            copying = float(str(row["upload_ms"])) + float(str(row["download_ms"]))
            mark = " *" if title == recommended(rows) else ""
            layers = json.dumps(built.get("layers", {})).strip("{}").replace('"', "")
            times = f"{_ms(rows, title):.4f}", f"{speed:.2f}x" if speed else "–", f"{copying:.3f}"
            table.add_row(name, title + mark, *times, layers)
    Console(width=160).print(table, "* recommended")


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("action", choices=("make", "judge"))
    parser.add_argument("--models", type=Path, help="make: folder for the ONNX files")
    parser.add_argument("--from", type=Path, dest="source", help="judge: folder with tensorrt.json")
    options = parser.parse_args()
    if options.action == "make":
        from tensorrt_bench.make import make

        make(NETS, options.models)
        return
    measured = json.loads((options.source / "tensorrt.json").read_text())
    show(measured)
    report(bars(measured), options.json)


if __name__ == "__main__":
    main()
