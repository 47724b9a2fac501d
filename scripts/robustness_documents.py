"""Malformed JSON: manifests, results and answers of boards, reports, profiles, tables; each by what reads it.

A document comes of the reader's own types: every field with a value of its kind, some of them out of all bounds. Most
are changed afterwards, in a field or in the text.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from pydantic import JsonValue
from robustness_case import Case, generated, write
from robustness_json import example, odd_document

from compress.__main__ import main
from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.device.__main__ import main as device
from compress.device.bundle import Content, write_bundle
from compress.device.visit import BenchOptions, check_device, measure_on
from compress.measure.estimate.calibration import Point, read_points, summarize
from compress.pipeline.attach import attach
from compress.profile.__main__ import main as profile
from compress.profile.document import Profile
from compress.pruning.cost import read_layer_times
from compress.report.__main__ import main as report
from compress.report.markdown import run_markdown
from compress.report.pages import Reports, page_of
from compress.results.bundle import Manifest, read_bundle
from compress.results.device import DeviceResult, DeviceRun, read_result
from compress.results.manifest import Manifest as RunManifest
from compress.results.multirun import Multirun
from compress.results.report import Report

__all__ = ["document_case", "documents"]


def _document(kind: type, rng: random.Random) -> bytes:
    return odd_document(example(kind, rng, rng.choice((0.0, 0.0, 0.02, 0.2))), rng)


_SPEC = InputSpec((3, 8, 8))


@cache
def _bundle() -> Mapping[str, bytes]:
    """The files of a small bundle, by name."""
    import tempfile

    weights = numpy_helper.from_array(np.zeros((4, 3, 8, 8), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Flatten", ["c"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, *_SPEC.shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [weights],
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, folder / "net.onnx")
        images = np.zeros((2, *_SPEC.shape), np.float32)
        np.savez(folder / "golden.npz", inputs=images, labels=np.zeros(2, np.int64), net=np.zeros((2, 4), np.float32))
        artifact = Artifact(Format.ONNX, folder / "net.onnx", Precision.FP32, _SPEC, history=("net",))
        target = load_target("raspberry_pi_4", [])
        golden = folder / "golden.npz"
        content = Content(target, _SPEC, tuple("abcd"), {"net": artifact}, golden, frozenset({"net"}))
        write_bundle(content, folder / "bundle")
        return {
            path.relative_to(folder / "bundle").as_posix(): path.read_bytes()
            for path in sorted((folder / "bundle").rglob("*"))
            if path.is_file()
        }


def _in_bundle(manifest: bytes | None = None) -> dict[str, bytes]:
    files = {f"run/bundle/{name}": content for name, content in _bundle().items()}
    return files if manifest is None else files | {"run/bundle/manifest.json": manifest}


def _manifest(rng: random.Random) -> Case:
    """Verified, or taken to a device that only listens."""
    real = json.loads(_bundle()["manifest.json"])
    manifest = odd_document(real, rng) if rng.random() < 0.8 else _document(Manifest, rng)
    run = rng.choice((_verify, _check_all, _take_along))
    return Case(f"manifest {run.__name__.strip('_')}", write(_in_bundle(manifest)), run)


def _verify() -> object:
    return device(["verify", "--bundle", "run/bundle"])


def _check_all() -> object:
    """What a finished visit does with a bundle: it is read, and its files calibrate the estimate."""
    bundle = read_bundle(Path("run/bundle"))
    return _attach(_result(bundle.digest, bundle.manifest.models[0].stage if bundle.manifest.models else "x"))


def _take_along() -> object:
    measure_on(Talker([], b""), read_bundle(Path("run/bundle")), _OPTIONS, lambda text: None)
    return 0


_OPTIONS = BenchOptions(seconds=1.0, patience_seconds=0.0)


def _attach(content: bytes) -> int:
    os.environ["XDG_DATA_HOME"] = str(Path("data").absolute())
    bundle = read_bundle(Path("run/bundle"))
    lines = list(attach(bundle, [DeviceRun("pi", read_result(content, bundle, "pi"))]))
    return 0 if lines else 1


def _result(digest: str, stage: str = "net", rng: random.Random | None = None) -> bytes:
    rng = rng or random.Random(0)
    times = {"min_ms": 0.9, "low_ms": 1.0, "median_ms": 1.0, "high_ms": 1.1, "p90_ms": 1.2, "p99_ms": 1.3}
    row: dict[str, JsonValue] = {
        "stage": stage,
        "precision": "fp32",
        "threads": 4,
        "batch": 1,
        "problem": None,
        "runtime": "onnxruntime 1",
        "golden": {"passed": True, "sqnr_db": 60.0},
        "load_ms": 2.0,
        "peak_celsius": 55.0,
        "peak_rss_bytes": 10**8,
        "latency": {**times, "runs": 100, "warmup": 10, "settled": True, "throughput_per_s": 900.0},
        "mean_watts": {"all": 3.2},
        "before": {"governor": "ondemand", "clocks_mhz": [1500, None], "celsius": 50.0, "throttled": ["now"]},
    }
    facts: JsonValue = {
        "model": "Pi 4",
        "architecture": "aarch64",
        "cores": 4,
        "system": "Linux",
        "python": "3.11.2",
        "cpu_flags": ["asimd"],
        "memory_bytes": 4 * 2**30,
    }
    document: JsonValue = {
        "schema_version": 1,
        "manifest_sha256": digest,
        "target": "raspberry_pi_4",
        "started": "2024-01-01",
        "device": facts,
        "results": [row],
        "finished": True,
    }
    return json.dumps(document).encode()


def _answer(rng: random.Random) -> Case:
    """What a board found, put into a report that lies beside the bundle."""
    digest = hashlib.sha256(_bundle()["manifest.json"]).hexdigest()
    real: JsonValue = json.loads(_result(digest))
    assert isinstance(real, dict)
    if rng.random() < 0.3:
        made = example(DeviceResult, rng, rng.choice((0.0, 0.1)))
        assert isinstance(made, dict)
        real = made | {"schema_version": 1, "manifest_sha256": digest}
    content = odd_document(real, rng)
    beside = json.dumps({**typing.cast(dict[str, JsonValue], example(Report, rng)), "schema_version": 2}).encode()
    return Case("result", write(_in_bundle() | {"run/report.json": beside}), lambda: _attach(content))


class Talker:
    """A device that says what it was told to say, then nothing sensible, then nothing."""

    name = "talker"

    def __init__(self, lines: Sequence[bytes], tail: bytes) -> None:
        self._lines = list(lines)
        self._tail = tail

    def open(self) -> typing.Any:
        return self

    def ask(self, request: bytes, seconds: float) -> bytes:
        return self._lines.pop(0) if self._lines else b""

    def read(self, size: int, seconds: float) -> bytes:
        return self._tail[:size]

    def close(self) -> None: ...


def _courier(rng: random.Random) -> Case:
    """Answers of a board's courier to what a visit asks, one of them odd."""
    result = _result(hashlib.sha256(_bundle()["manifest.json"]).hexdigest())
    good: list[JsonValue] = [
        {"ok": {"sizes": {name: len(content) for name, content in _bundle().items()}}},
        {"ok": {"python": "/usr/bin/python3", "how": "as it is"}},
        {"ok": {"state": rng.choice(("started", "running"))}},
        {"ok": {"state": "done", "text": "measured\n", "offset": 9}},
        {"ok": {"size": len(result), "sha256": hashlib.sha256(result).hexdigest()}},
        {"ok": {}},
    ]
    hello: JsonValue = {"ok": {"protocol": 1, "python": "3.11", "architecture": "aarch64", "free_bytes": 10**9}}
    greeting = rng.random() < 0.3
    answers = [hello] if greeting else good
    odd = rng.randrange(len(answers))
    lines = [
        (odd_document(answer, rng) if number == odd else json.dumps(answer).encode()).replace(b"\n", b" ") + b"\n"
        for number, answer in enumerate(answers)
    ]

    def run() -> object:
        if greeting:
            print(check_device(Talker(lines, b"")))
        else:
            measure_on(Talker(lines, result), read_bundle(Path("run/bundle")), _OPTIONS, print)
        return 0

    return Case("courier", write(_in_bundle()), run)


def _report(rng: random.Random) -> Case:
    """Reports, alone and side by side."""
    plain = typing.cast(dict[str, JsonValue], example(Report, rng)) | {"schema_version": 2}
    wild = typing.cast(dict[str, JsonValue], example(Report, rng, rng.choice((0.02, 0.2)))) | {"schema_version": 2}
    content = odd_document(rng.choice((plain, wild)), rng)
    files = {"run/report.json": content, "other/report.json": json.dumps(plain).encode()}
    profiled = typing.cast(dict[str, JsonValue], example(Profile, rng)) | {"schema": 1}
    if rng.random() < 0.2:
        files["run/profile.json"] = odd_document(profiled, rng)
    command = rng.choice((["run"], ["run", "other"], ["run", "--plots", "plots"]))
    return Case(f"report {' '.join(command)}", write(files), lambda: report(command))


def _read_report(rng: random.Random) -> Case:
    """A report of which everything but the plots is made."""
    made = typing.cast(dict[str, JsonValue], example(Report, rng, rng.choice((0.0, 0.02, 0.2)))) | {"schema_version": 2}
    content = odd_document(made, rng)

    def run() -> object:
        found = Report.from_json(content)
        return run_markdown(found) and page_of(Reports(((Path("run"), found),))) and 0

    return Case("read report", write({}), run)


def _multirun(rng: random.Random) -> Case:
    record = typing.cast(dict[str, JsonValue], example(Multirun, rng)) | {"schema_version": 1, "runs": ["pi/one"]}
    beside = json.dumps({**typing.cast(dict[str, JsonValue], example(Report, rng)), "schema_version": 2}).encode()
    files = {"out/multirun/t/multirun.json": odd_document(record, rng), "out/pi/one/report.json": beside}
    return Case("multirun", write(files), lambda: report(["out/multirun/t"]))


def _profile(rng: random.Random) -> Case:
    plain = typing.cast(dict[str, JsonValue], example(Profile, rng)) | {"schema": 1}
    wild = typing.cast(dict[str, JsonValue], example(Profile, rng, 0.1)) | {"schema": 1}
    files = {"a.json": odd_document(rng.choice((plain, wild)), rng), "b.json": json.dumps(plain).encode()}
    command = rng.choice((["a.json"], ["b.json", "--against", "a.json"]))
    return Case("profile", write(files), lambda: profile(command))


def _run_folder(rng: random.Random) -> Case:
    """The manifest of a run: which file is profiled, and which are updated."""
    manifest = typing.cast(dict[str, JsonValue], example(RunManifest, rng, rng.choice((0.0, 0.1))))
    record: JsonValue = {"path": "net.onnx", "sha256": hashlib.sha256(_bundle()["net.onnx"]).hexdigest()}
    assert isinstance(record, dict)
    more: JsonValue = {"size_bytes": 1, "stage": "to_onnx", "format": "onnx", "precision": "fp32", "history": ["a"]}
    assert isinstance(more, dict)
    manifest |= {"files": [record | more], "input": {"shape": [3, 8, 8]}, "schema_version": 1}
    beside = json.dumps({**typing.cast(dict[str, JsonValue], example(Report, rng)), "schema_version": 2}).encode()
    files = {"run/manifest.json": odd_document(manifest, rng), "run/report.json": beside}
    files["run/net.onnx"] = _bundle()["net.onnx"]
    run = rng.choice((lambda: profile(["run", "--seconds", "0.01"]), lambda: report(["run"])))
    return Case("run folder", write(files), run)


def _layer_times(rng: random.Random) -> Case:
    times = odd_document({"layer1": 0.5, "layer2": 1.25, "fc": 0.01}, rng)
    layers = ("layer1", "layer2", "fc")
    return Case("layer times", write({"t.json": times}), lambda: bool(read_layer_times(Path("t.json"), layers)) - 1)


def _class_map(rng: random.Random) -> Case:
    numbers: JsonValue = {"cat": 1, "dog": 0}
    names: JsonValue = {"0": ["n1", "dog"], "1": ["n2", "cat"]}
    table = odd_document(rng.choice((numbers, names)), rng)
    files = {f"photos/{name}/a.png": _PIXEL for name in ("cat", "dog")} | {"map.json": table}
    command = ["target=jetson_nano", "model=file", "model.path=absent.onnx", "output=out", "-q"]
    command += ["data=image_folder", "data.train=photos", "data.class_map=map.json"]
    return Case("class map", write(files), lambda: main(command))


def _calibration(rng: random.Random) -> Case:
    """Points that boards left for the estimate."""
    points: JsonValue = {"target": "x", "points": [example(Point, rng, 0.1), example(Point, rng)]}

    def calibrated() -> object:
        os.environ["XDG_DATA_HOME"] = str(Path("data").absolute())
        return summarize(read_points("raspberry_pi_4"), Precision.INT8)

    path = "data/edge-compress/calibration/raspberry_pi_4.json"
    return Case("calibration", write({path: odd_document(points, rng)}), calibrated)


_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
)

_DOORS = (
    *(_manifest, _answer, _courier, _report, _multirun, _profile, _run_folder, _layer_times),
    *(_class_map, _calibration, _read_report),
)
_UNDRAWN = (_manifest, _courier, _profile, _layer_times, _calibration, _read_report)


def document_case(rng: random.Random) -> Case:
    """A document that is read, and of which no page is drawn."""
    return rng.choice(_UNDRAWN)(rng)


def documents(count: int, seed: int) -> Iterator[Case]:
    """Files and answers of JSON."""
    import jinja2  # noqa: F401  what a child would import otherwise, hundreds of times
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401

    import compress.report.html.compare_page
    import compress.report.html.run_page  # noqa: F401

    return generated(count, seed, lambda rng: rng.choice(_DOORS)(rng))
