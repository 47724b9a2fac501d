"""Build and time every engine on a real GPU; results are written after each, so that a run that is stopped is no loss.

Runs where only Python 3.10, numpy and TensorRT 8.5 are: no torch, no onnx. Engines are built by the device's own
build_engine.py and run by compress.formats.tensorrt.runtime.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from compress.core.artifact import Precision  # noqa: E402
from compress.device.agent.builder.network import build  # noqa: E402  the device's own
from compress.device.agent.builder.plans import Plan  # noqa: E402
from compress.formats.parity import TOLERANCES  # noqa: E402
from compress.formats.tensorrt.cuda import DeviceBuffer, Stream, open_gpu  # noqa: E402
from compress.formats.tensorrt.race import Candidate, describe, fastest, race  # noqa: E402
from compress.formats.tensorrt.runtime import interleaved, load_engine  # noqa: E402

TACTICS = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
"""The others call cuBLAS and cuDNN, which stand-ins replace where those of TensorRT 8's time are missing."""
RUNS = 400
MARGIN_SECONDS = 15.0


@dataclass(frozen=True)
class Engine:
    """One engine: which file, in which arithmetic; `implicit` lets TensorRT place INT8 itself, and calibrate it unless
    `cache` gives it our scales."""

    title: str
    file: str
    precision: str
    golden: str
    implicit: bool = False
    sparse: bool = False
    cache: bool = False


@dataclass(frozen=True)
class Group:
    """Engines of one network and batch, timed in turn."""

    net: str
    batch: int
    engines: tuple[Engine, ...]
    about: str = ""

    @property
    def name(self) -> str:
        return f"{self.net}, batch {self.batch}{self.about}"


def groups() -> list[Group]:
    """The most telling first."""
    return [
        Group("resnet18", 32, three("resnet18")),
        Group("resnet18", 1, three("resnet18")),
        Group("resnet50", 32, three("resnet50")),
        Group("mobilenet_v2", 1, three("mobilenet_v2")),
        Group("resnet18", 32, (ours("resnet18"), cached("resnet18")), ", our cache"),
        Group("resnet18", 1, (Engine("fp32", "resnet18-twin.onnx", "fp32", "fp32"),), ", float"),
        Group("resnet50", 1, three("resnet50")),
        Group("resnet50", 32, (fp16("resnet50"), *sparse("resnet50")), ", sparse"),
        Group("mobilenet_v2", 32, three("mobilenet_v2")),
    ]


def ours(net: str, placement: str = "tensorrt") -> Engine:
    return Engine(f"int8 {placement}", f"{net}-{placement}.onnx", "int8", f"int8:{net}-{placement}")


def fp16(net: str) -> Engine:
    return Engine("fp16", f"{net}-twin.onnx", "fp16", "fp32")


def choose(names: list[str]) -> list[Group]:
    """The named groups in the order given; all of them without names."""
    known = {group.name: group for group in groups()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"--groups {unknown[0]!r} is none of: {'; '.join(known)}")
    return [known[name] for name in names] or list(known.values())


def three(net: str) -> tuple[Engine, ...]:
    return (fp16(net), ours(net), Engine("int8 implicit", f"{net}-twin.onnx", "int8", "fp32", implicit=True))


def cached(net: str) -> Engine:
    """Implicit INT8 with our scales, from the calibration cache that to_tensorrt writes."""
    return Engine("int8 our cache", f"{net}-twin.onnx", "int8", f"int8:{net}-tensorrt", implicit=True, cache=True)


def sparse(net: str) -> tuple[Engine, ...]:
    file = f"{net}-2to4.onnx"
    return (
        Engine("fp16 2:4 sparse", file, "fp16", "", sparse=True),
        Engine("fp16 2:4 dense kernels", file, "fp16", ""),
    )


class Bench:
    """The run: what was measured so far, and how long there is left."""

    def __init__(self, models: Path, output: Path, seconds: float, chosen: list[Group]) -> None:
        self.models, self.output, self.groups = models, output, chosen
        self.deadline = time.monotonic() + seconds
        self.path = output / "tensorrt.json"
        output.mkdir(parents=True, exist_ok=True)
        self.results = json.loads(self.path.read_text()) if self.path.exists() else {"engines": {}, "groups": {}}

    def run(self, images: NDArray[np.float32], calibration: NDArray[np.float32]) -> None:
        import tensorrt

        gpu = open_gpu()
        if gpu is None:
            raise SystemExit("no NVIDIA GPU answers here: the engines can be built on nothing else")
        self.results["machine"] = {"gpu": gpu.name, "tensorrt": tensorrt.__version__, "capability": gpu.capability}
        for group in self.groups:
            built = [engine for engine in group.engines if self.build(tensorrt, group, engine, calibration)]
            if built and group.name not in self.results["groups"]:
                self.time(group, built, images)

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def build(self, tensorrt, group: Group, engine: Engine, calibration) -> bool:  # noqa: ANN001
        key = f"{group.net}, batch {group.batch}: {engine.title}"
        known = self.results["engines"].get(key)
        if known is not None:
            return "size_bytes" in known
        expected = self.expected(group, engine)
        if self.left() < expected + MARGIN_SECONDS or not (self.models / engine.file).exists():
            return False
        self.results["engines"][key] = {"problem": "the process died while building it"}
        self.save()
        started = time.monotonic()
        try:
            found = build(tensorrt, self.plan(group, engine, calibration))
        except Exception as error:
            traceback.print_exc()
            found = {"problem": f"{type(error).__name__}: {error}"}
        found["seconds"] = round(time.monotonic() - started, 1)
        self.results["engines"][key] = {**asdict(engine), **found}
        self.save()
        print(f"[{self.left():5.0f} s left] {key}: {found['seconds']} s, {found.get('layers', found.get('problem'))}")
        sys.stdout.flush()
        return "size_bytes" in found

    def expected(self, group: Group, engine: Engine) -> float:
        """Seconds that a build will take, by the same network's (or any) last one."""
        known = [one for one in self.results["engines"].items() if "seconds" in one[1]]
        same = [one["seconds"] for key, one in known if key.startswith(group.net)]
        return (max(same[-3:]) if same else max([one["seconds"] for _, one in known[-3:]], default=20.0)) + 5.0

    def plan(self, group: Group, engine: Engine, calibration: NDArray[np.float32]) -> Plan:
        found = self.models / f"{group.net}.calibration.cache"
        cache = found if engine.cache else self.output / f"calibration-{group.net}.cache"
        return Plan(
            onnx=str(self.models / engine.file),
            engine=str(self.engine_path(group, engine)),
            precision=engine.precision,
            workspace=1 << 30,
            batch=(group.batch,) * 3,
            timing_cache=str(self.models / "timing.cache"),
            calibration=entropy_calibrator(calibration, group.batch, cache) if engine.implicit else None,
            sparse=engine.sparse,
            tactics=TACTICS,
        )

    def engine_path(self, group: Group, engine: Engine) -> Path:
        return self.models / f"{group.net}-{group.batch}-{engine.title.replace(' ', '_').replace(':', '')}.engine"

    def time(self, group: Group, engines: list[Engine], images: NDArray[np.float32]) -> None:
        batch = images[: group.batch]
        runners = [load_engine(self.engine_path(group, engine)) for engine in engines]
        passes = [interleaved(runners, batch, runs=RUNS) for _ in range(2)]
        rows = {}
        for index, engine in enumerate(engines):
            first, second = passes[0][index], passes[1][index]
            compute = [*first.compute_ms, *second.compute_ms]
            rows[engine.title] = {
                "median_ms": float(np.median(compute)),
                "passes_ms": [float(np.median(one.compute_ms)) for one in (first, second)],
                "p90_ms": float(np.percentile(compute, 90)),
                "upload_ms": float(np.median(first.upload_ms)),
                "download_ms": float(np.median(first.download_ms)),
                "runs": len(compute),
                "output": self.closeness(group, engine, runners[index](batch), len(batch)),
                "layer_ms": runners[index].layer_times(batch),
            }
            print(f"    {group.name:22} {engine.title:22} {rows[engine.title]['median_ms']:.4f} ms", end=" ")
            print(rows[engine.title]["passes_ms"], rows[engine.title]["output"], flush=True)
        self.results["groups"][group.name] = rows
        self.race(group, images)
        self.save()

    def race(self, group: Group, images: NDArray[np.float32]) -> None:
        """What the stage to_tensorrt would hand over and say."""
        candidates = [
            Candidate(precision, path, TOLERANCES[Precision.INT8])
            for precision, engine in ((Precision.FP16, fp16(group.net)), (Precision.INT8, ours(group.net)))
            if (path := self.engine_path(group, engine)).exists()
        ]
        if len(candidates) < 2 or group.about:
            return
        with np.load(self.models / f"{group.net}.npz") as golden:
            reference = golden[ours(group.net).golden]
        found = race(candidates, images, reference, group.batch)
        said = describe(found, fastest(found))
        self.results.setdefault("races", {})[group.name] = said
        print(f"    {said}", flush=True)

    def closeness(
        self, group: Group, engine: Engine, found: NDArray[np.float32], count: int
    ) -> dict[str, float] | None:
        """Against torch on the same images; None for an engine that has no reference."""
        if not engine.golden:
            return None
        with np.load(self.models / f"{group.net}.npz") as golden:
            expected = golden[engine.golden][:count].astype(np.float64)
        error = found - expected
        return {
            "relative": float(np.abs(error).max() / np.abs(expected).max()),
            "sqnr_db": float(10 * np.log10((expected**2).sum() / max((error**2).sum(), 1e-30))),
        }

    def save(self) -> None:
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(self.results, indent=1))
        temporary.replace(self.path)


def entropy_calibrator(images: NDArray[np.float32], batch: int, cache: Path):  # noqa: ANN201  TensorRT's own class
    """TensorRT's entropy calibrator over `images`; what it finds is kept in `cache` for the next engine."""
    import tensorrt

    class Calibrator(tensorrt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.IInt8EntropyCalibrator2.__init__(self)
            gpu = open_gpu()
            assert gpu is not None
            self.stream, self.position = Stream(gpu), 0
            self.buffer = DeviceBuffer(gpu, images[:1].nbytes * batch)

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: list[str]) -> list[int] | None:
            part = np.ascontiguousarray(images[self.position : self.position + batch])
            if len(part) < batch:
                return None
            self.position += batch
            self.buffer.upload(part, self.stream)
            self.stream.synchronize()
            return [self.buffer.address]

        def read_calibration_cache(self) -> bytes | None:
            return cache.read_bytes() if cache.exists() else None

        def write_calibration_cache(self, content: object) -> None:
            cache.write_bytes(bytes(content))  # type: ignore[call-overload]

    return Calibrator()


def images(seed: int, count: int) -> NDArray[np.float32]:
    """As in make.py, which needs torch: normalised images with detail at every scale, equal everywhere."""
    random = np.random.default_rng(seed)
    total = np.zeros((count, 3, 224, 224), np.float32)
    for side in (4, 16, 56, 224):
        noise = random.standard_normal((count, 3, side, side), dtype=np.float32)
        total += noise.repeat(224 // side, axis=2).repeat(224 // side, axis=3) / 2
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder with the ONNX files and golden outputs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=400.0, help="no engine is started that would end later")
    parser.add_argument("--groups", nargs="*", default=[], help="only these, in this order: 'resnet18, batch 1' ...")
    options = parser.parse_args()
    Bench(options.models, options.output, options.seconds, choose(options.groups)).run(images(2, 32), images(1, 32))


if __name__ == "__main__":
    main()
