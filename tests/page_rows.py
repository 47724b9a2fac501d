"""An invented run of a large network in a folder, shared by the tests of the page."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from report_rows import run_report, run_rows

from compress.core.measurement import Caveat, CaveatKind, Sparsity
from compress.measure.drift import Drift
from compress.measure.estimate.roofline import Estimate
from compress.measure.ranges import Histogram, TensorRange
from compress.results.device import DeviceFacts, DeviceLatency, DeviceResult, DeviceRow, DeviceRun, GoldenCheck
from compress.results.report import ReportFile, SplitSummary

KINDS = ("compute", "bandwidth", "launch", "transfer")


def layer(number):
    return f"features.{number // 10}.block.{number}.conv"


def range_of(number, kind, *, histogram=True):
    counts = tuple(round(1000 * math.exp(-((place - 32) ** 2) / 200)) for place in range(64))
    return TensorRange(
        stage="ptq_static",
        name=layer(number),
        kind=kind,
        channels=1 if kind == "activation" else 64,
        low=-2.0,
        high=2.0,
        seen_low=-3.2,
        seen_high=3.2,
        clipped=0.01 if kind == "activation" else None,
        sqnr_db=20.0 + number,
        samples=32 if kind == "activation" else 0,
        histogram=Histogram(-3.2, 0.1, counts) if histogram else None,
    )


def device_run(name="kitchen"):
    facts = DeviceFacts("Raspberry Pi 4 Model B", "aarch64", 4, "Linux 6.6", "3.11.2")
    latency = DeviceLatency(12.3, 12.2, 12.4, 12.9, 13.5, 12.0, 400, 20, True, 81.3)
    good = DeviceRow("to_onnx", "int8", 4, 1, None, golden=GoldenCheck(True, identical=True), latency=latency)
    bad = DeviceRow("to_onnx_fp32", "fp32", 4, 1, "outputs differ")
    return DeviceRun(name, DeviceResult(1, "0" * 64, "raspberry_pi_4", "2025-01-01", facts, (good, bad), True))


def large_report(layers=200, **changes):
    """A run in which every section of the page has something to say."""
    per_layer = {layer(number): 0.3 + 0.5 * (number % 7) / 7 for number in range(layers)}
    rows = [replace(row, sparsity=Sparsity(120_000, 270_000, per_layer)) for row in run_rows()]
    built = Caveat(CaveatKind.MISSING, "built on the device")
    rows.append(replace(rows[-1], stage="engine", latency=None, notes={}, caveats={"latency": built}))
    ranges = [range_of(number, "weight", histogram=number < 9) for number in range(layers)]
    ranges += [range_of(number, "activation", histogram=number < 9) for number in range(layers)]
    base = {
        "ranges": tuple(ranges),
        "drift": (Drift("to_onnx", "ptq_static", "onnxruntime 1.31.0", 0.09, "logit range", 1.7, 0.1, 0.99, 128),),
        "devices": (device_run(),),
        "estimates": (Estimate("to_onnx", 1.1, 0.5, 2.2, 4, "roofline, not calibrated"),),
        "splits": {"calibration": SplitSummary(128, "a" * 64)},
        "files": tuple(ReportFile(f"file{number}.onnx", 1000, "b" * 64) for number in range(4)),
    }
    return run_report(tuple(rows), **{**base, **changes})


def profile(count=200, **changes):
    rows = [
        {
            "name": layer(number),
            "op": "Conv",
            "median_ms": 0.01 + 0.001 * (number % 13),
            "share": 1 / count,
            "operations": 10_000 * (1 + number),
            "bytes": 20_000 + number,
            "intensity": 0.5 * (1 + number),
            "bottleneck": KINDS[number % 4],
            "advice": "quantize it",
        }
        for number in range(count)
    ]
    rows[-1] = {**rows[-1], "operations": 0, "intensity": None}
    model = {"measured_ms": 3.0, "sum_ms": 2.9, "overhead_ms": 0.1, "bottleneck": "compute"}
    roofline = {"peak_gflops": 100.0, "bandwidth_gb_s": 12.0, "source": "measured", "launch_us": 2.0}
    base = {
        "schema": 1,
        "file": "to_onnx.onnx",
        "runtime": "onnxruntime 1.31.0",
        "device": "Test CPU",
        "threads": 1,
        "batch": 1,
        "model": {**model, "profiling_overhead": 0.03, "advice": "fewer MACs"},
        "roofline": roofline,
        "layers": rows,
    }
    return {**base, **changes}


def write_run(folder, report=None, *, layers=200):
    """A run folder with a report, both scans and a profile."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes((report or large_report(layers)).to_json())
    (folder / "profile.json").write_text(json.dumps(profile(layers)))
    quantize = [f"{layer(number)},{20 + number / 10},{number % 3 / 100},1000,2000" for number in range(layers)]
    (folder / "scan.csv").write_text("\n".join(["layer,sqnr_db,top1_changed,weight_bytes,macs", *quantize]))
    prune = [
        f"{layer(number)},100,{share},{0.9 - share * (number % 5) / 5},0.1"
        for number in range(layers)
        for share in (0, 0.3, 0.5, 0.7)
    ]
    (folder / "pscan.csv").write_text("\n".join(["layer,size,share,top1,loss", *prune]))
    return folder
