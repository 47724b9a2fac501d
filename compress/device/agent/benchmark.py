"""Check the models of this bundle on this device, then time them.

    python3 benchmark.py [--models A,B] [--threads 1,4] [--batch 1,8] [--seconds 30] [--json result.json]

Needs numpy and the runtime of the models (see requirements.txt); runs under Python 3.6 to 3.13, on its own: nothing
else of the project that made the bundle is on the device. Written for the oldest interpreter it meets (NVIDIA Jetson
Nano: Python 3.6, numpy 1.13).

Every file is compared with its SHA-256 before anything is loaded, and every model's outputs with those of the machine
that made it before it is timed: a model that computes something else gets no number. Each model and thread count
runs in a process of its own, so memory is its own and a crash is an answer, not the end.

Exit codes: 0 all measured; 1 a model failed, or its outputs are wrong; 2 this bundle cannot be used here as asked.
"""

import argparse
import os
import time
from typing import Callable, List, Optional, Tuple

from .arguments import add_result_options, bundle_parser, numbers
from .files import verify
from .golden import check_golden
from .golden_file import read_golden, require_golden
from .isolation import isolated
from .machine import boot, describe_device, require_device, require_flags, resident_bytes
from .manifest import read_manifest
from .program import run_program, say
from .runners import load
from .saving import done, require_writable, resumable, saver, settings
from .state import Watcher, read_state
from .table import HEADER, banner, row
from .timing import MS, measure
from .values import Json, Problem
from .versions import INSTALL

RESULT_SCHEMA = 1


def benchmark_model(folder: str, manifest: Json, model: Json, threads: int, options: argparse.Namespace) -> List[Json]:
    """Load, check and time one model with one thread count; a list with one result for each batch size."""
    import numpy

    base = resident_bytes("VmHWM")
    start = time.perf_counter()
    runner = load(folder, model, threads)
    load_ms = (time.perf_counter() - start) * MS
    golden = check_golden(runner, folder, manifest, model)
    shared = {"runtime": runner.name, "load_ms": load_ms, "golden": golden, "threads": threads}
    if not golden["passed"]:
        reason = "golden outputs do not match on this device: %s" % golden["reason"]
        return [dict(shared, batch=runner.batch or 1, problem=reason)]
    sample = read_golden(folder, manifest, model)[0][:1]
    results = []
    for batch in [runner.batch] if runner.batch else options.batch:
        before, watcher = read_state(), Watcher()
        feed = runner.prepare(numpy.repeat(sample, batch, axis=0))
        latency = measure(getattr(runner, "call", runner.run), feed, options.seconds, watcher)
        latency["throughput_per_s"] = batch * MS / latency["median_ms"]
        result = dict(shared, batch=batch, latency=latency, before=before, after=read_state(), problem=None)
        result.update(watcher.summary())
        result.update(peak_rss_bytes=resident_bytes("VmHWM"), start_rss_bytes=base)
        results.append(result)
    return results


def chosen(manifest: Json, names: Optional[str]) -> List[Json]:
    models: List[Json] = manifest["models"]
    if not names:
        return models
    stages = [model["stage"] for model in models]
    for name in names.split(","):
        if name not in stages:
            raise Problem("no model %r in this bundle; it has %s" % (name, ", ".join(stages)), code=2)
    return [model for model in models if model["stage"] in names.split(",")]


def parse(arguments: Optional[List[str]], folder: str) -> argparse.Namespace:
    parser = bundle_parser("check and time the models of this bundle on this device", folder, "all in the bundle")
    parser.add_argument("--threads", type=numbers, metavar="1,4", help="thread counts; default: 1 and all cores")
    parser.add_argument("--batch", type=numbers, default=[1, 8], metavar="1,8", help="where the model takes any batch")
    add_result_options(parser, "figure", 30)
    parser.add_argument("--resume", action="store_true", help="keep figures that FILE of --json already has")
    parser.add_argument("--any-device", action="store_true", help="run on another architecture than the bundle's")
    options = parser.parse_args(arguments)
    if options.resume and not options.json:
        parser.error("--resume keeps figures of the file that --json names, and none is named")
    return options


def asked(manifest: Json, device: Json, options: argparse.Namespace) -> List[Tuple[Json, int]]:
    """Every chosen model with every thread count."""
    counts = options.threads or sorted({1, device["cores"]})
    return [(model, threads) for model in chosen(manifest, options.models) for threads in counts]


def run_all(
    folder: str,
    manifest: Json,
    work: List[Tuple[Json, int]],
    options: argparse.Namespace,
    report: Json,
    save: Callable[[Json], None],
) -> None:
    """Measure the models of `work` with their thread counts into `report`, saving after each."""
    for model, threads in work:
        facts = {name: model.get(name) for name in ("stage", "path", "format", "precision")}
        try:
            require_flags(model, report["device"])
            found = isolated(lambda: benchmark_model(folder, manifest, model, threads, options))
        except Problem as error:
            found = [{"threads": threads, "batch": 1, "problem": str(error)}]
        for result in found:
            report["results"].append(dict(facts, **result))
            say(row(report["results"][-1]))
        save(report)
    report["finished"] = True


def numpy_version() -> str:
    """Version of numpy, for a child: an import that crashes, as one built for another CPU does, is an answer too."""
    try:
        import numpy
    except ImportError as error:
        raise Problem((str(error).strip().splitlines() or ["no reason given"])[0])
    return str(numpy.__version__)


def benchmark(options: argparse.Namespace) -> int:
    """Verify, check, measure, print; the exit code."""
    folder = os.path.abspath(options.bundle)
    require_writable(options.json)
    manifest, digest = read_manifest(folder)
    verify(folder, manifest)
    device = describe_device()
    require_device(manifest, device, options.any_device)
    work = asked(manifest, device, options)
    require_golden(folder, manifest, [model for model, _ in work])
    kept, finished = resumable(options, digest)
    left = [(model, threads) for model, threads in work if (model["stage"], threads) not in done(kept)]
    if finished and not left:
        reason = "nothing is left to measure: %s has every figure that is asked for" % options.json
        raise Problem(reason, "leave --resume out to measure again", 2)
    try:
        version = isolated(numpy_version)
    except Problem as error:
        raise Problem("numpy cannot be imported: %s" % error, "%s; README.md has the lines to type" % INSTALL, 2)
    report = {
        "schema_version": RESULT_SCHEMA,
        "manifest_sha256": digest,
        "target": manifest["target"],
        "boot": boot(),
        "settings": settings(options),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": dict(device, numpy=version),
        "results": kept,
        "finished": False,
    }
    say(banner(manifest, device, read_state()))
    say(HEADER)
    save = saver(options.json)
    run_all(folder, manifest, left, options, report, save)
    save(report)
    return 1 if any(result["problem"] for result in report["results"]) else 0


def main(arguments: Optional[List[str]] = None, folder: str = ".") -> int:
    """Run the program on the bundle in `folder`; the exit code."""
    return run_program(lambda: benchmark(parse(arguments, folder)))
