"""Rows of an invented run, shared by the report's tests."""

from __future__ import annotations

from compress.core.artifact import Format, Precision
from compress.core.measurement import Accuracy, Caveat, CaveatKind, Fidelity, Latency, Measurement, Sparsity
from compress.measure.host import Host
from compress.results.report import Report

HOST = Host("Test CPU", "x86_64", ("avx512_vnni", "avx2"), 2, 8 << 30, "Linux 6", "3.11.7")
TORCH, ORT = "pytorch 2.14.0", "onnxruntime 1.31.0"
EMULATED = Caveat(CaveatKind.EMULATED, "Q/DQ around float32 arithmetic")


def timed(ms, spread=1.02, threads=1):
    return Latency(ms, ms * spread, ms * spread**2, ms / spread, 200, 20, threads, 1, HOST.label)


def row(stage, *, feed=None, format=Format.TORCH, precision=Precision.FP32, runtime=TORCH, **numbers):
    base = {
        "size_bytes": 1_100_000,
        "size_gzip_bytes": 1_000_000,
        "parameters": 272_474,
        "macs": 40_813_184,
        "sparsity": Sparsity(0, 270_000),
        "latency": timed(3.0),
        "accuracy": Accuracy(0.928, 0.902, 0.947, 500),
        "fidelity": Fidelity(1.0, float("inf"), 0.0, 500),
        "seconds": 1.5,
        "feed": feed,
    }
    return Measurement(stage, format, precision, runtime, **{**base, **numbers})


def run_rows():
    return (
        row("source", seconds=None),
        row("magnitude", feed="source", size_gzip_bytes=600_000, sparsity=Sparsity(135_000, 270_000), reused=True),
        row(
            "ptq_static",
            feed="magnitude",
            precision=Precision.INT8,
            size_bytes=310_000,
            latency=timed(9.0),
            caveats={"latency": EMULATED},
        ),
        row(
            "to_onnx",
            feed="ptq_static",
            format=Format.ONNX,
            precision=Precision.INT8,
            runtime=ORT,
            size_bytes=330_000,
            macs=None,
            latency=timed(0.8),
            accuracy=Accuracy(0.924, 0.897, 0.944, 500),
            fidelity=Fidelity(0.99, 25.6, 0.4, 500),
            caveats={"macs": Caveat(CaveatKind.MISSING, "shape unknown")},
        ),
    )


def run_report(rows=None, **changes):
    base = {
        "created": "2025-01-01T00:00:00+00:00",
        "target": "raspberry_pi_4",
        "target_title": "Raspberry Pi 4",
        "overrides": ("target=raspberry_pi_4", "stage.magnitude.exclude=[fc]"),
        "config": {"seed": 0},
        "seed": 0,
        "commit": None,
        "host": HOST,
        "versions": {"torch": "2.14.0"},
        "classes": 10,
        "splits": {},
        "measurements": run_rows() if rows is None else rows,
        "files": (),
        "wall_seconds": 83.2,
    }
    return Report(**{**base, **changes})
