"""Build TensorRT engines from the ONNX files of this bundle, on the device they will run on; check them; race them.

    python3 build_engine.py [--models A,B] [--batch 1,1,1] [--dla-core 0] [--workspace-mib 256] [--json engines.json]
    python3 build_engine.py --onnx FILE [--precision fp16] [--engine FILE] ...

Engines move neither between GPUs nor between TensorRT versions, so this is where they are made. Needs numpy and the
`tensorrt` package of JetPack (8.0 to 11), Python 3.6 to 3.13; benchmark.py then times the engines.

Before anything is built: every file against its SHA-256, the TensorRT version, the GPU's compute capability, and free
memory. An INT8 file that this GPU cannot compute is not built, with the reason; the float file beside it is then built
in FP16. Where INT8 can be built, FP16 is built too and the faster one that computes what it should is recommended.

Exit codes: 0 all built; 1 an engine failed, or computes something else than it should; 2 cannot be used as asked.
"""

import argparse
import os
from typing import List, Optional

from .arguments import add_result_options, batches, bundle_parser, whole
from .builder.limits import MIB, choose_workspace, int8_refusal, refusal, require_memory, require_version
from .builder.network import build, import_tensorrt
from .builder.plans import LARGEST_WORKSPACE_MIB, PRECISIONS, Plan, chosen
from .builder.race import build_all
from .cuda import Cuda
from .files import sha256_file, verify
from .golden_file import require_golden
from .isolation import isolated
from .machine import boot
from .manifest import read_manifest
from .program import run_program, say
from .saving import require_writable, saver
from .values import Json, Problem

RESULT_SCHEMA = 1


def parse(arguments: Optional[List[str]], folder: str) -> argparse.Namespace:
    about = "build the TensorRT engines of this bundle on this device"
    parser = bundle_parser(about, folder, "every ONNX file of the bundle")
    parser.add_argument("--onnx", metavar="FILE", help="build this file instead; outputs are not checked")
    parser.add_argument("--sha256", metavar="HEX", help="what FILE must be")
    parser.add_argument("--engine", metavar="FILE", help="with --onnx: where the engine goes; default: beside it")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: the file's own")
    parser.add_argument("--batch", type=batches, metavar="1,8,32", help="smallest,usual,largest")
    workspace, text = whole(1, LARGEST_WORKSPACE_MIB), "default: a quarter of the free memory"
    parser.add_argument("--workspace-mib", type=workspace, metavar="N", help=text)
    parser.add_argument("--dla-core", type=int, choices=(0, 1), help="run on this DLA (Xavier), the rest on the GPU")
    parser.add_argument("--sparse", action="store_true", help="allow kernels for 2:4 sparse weights (Ampere and later)")
    parser.add_argument("--tactics", action="append", default=[], metavar="NAME", help="only these tactic sources")
    add_result_options(parser, "latency", 10)
    parser.add_argument("--any-device", action="store_true", help="try files that are too new for this TensorRT")
    options: argparse.Namespace = parser.parse_args(arguments)
    return options


def build_file(options: argparse.Namespace) -> int:
    """`--onnx`: one engine, no bundle."""
    if options.sha256 and sha256_file(options.onnx) != options.sha256:
        raise Problem("%s is not the file it should be (its SHA-256 differs)" % options.onnx, "copy it again", 2)
    tensorrt, gpu = import_tensorrt(), Cuda().describe()
    engine = options.engine or os.path.splitext(options.onnx)[0] + ".engine"
    plan = Plan(
        onnx=options.onnx,
        engine=engine,
        precision=options.precision or "fp16",
        workspace=choose_workspace(options.workspace_mib, gpu["free_bytes"]),
        batch=options.batch or (1, 1, 1),
        dla_core=options.dla_core,
        timing_cache=os.path.join(os.path.dirname(os.path.abspath(engine)), "timing.cache"),
        sparse=options.sparse,
        tactics=tuple(options.tactics),
    )
    reason = refusal(plan.precision, gpu)
    if reason:
        raise Problem(reason, "--precision fp16 or fp32")
    require_memory(plan.workspace, os.path.getsize(plan.onnx))
    result = build(tensorrt, plan)
    result.update(gpu=gpu, tensorrt=tensorrt.__version__)
    if options.json:
        saver(options.json)(result)
    say("%s: %.1f MiB in %.0f s" % (plan.engine, result["size_bytes"] / float(MIB), result["build_seconds"]))
    return 0


def build_bundle(options: argparse.Namespace) -> int:
    """Verify, check, build, race; the exit code."""
    folder = os.path.abspath(options.bundle)
    manifest, digest = read_manifest(folder)
    verify(folder, manifest)
    models = chosen(manifest, options.models)
    if not models:
        raise Problem("this bundle has no ONNX file to build from", code=2)
    require_golden(folder, manifest, models)
    version = isolated(lambda: import_tensorrt().__version__)
    remark = require_version(import_tensorrt(), manifest, options.any_device)
    gpu = isolated(lambda: Cuda().describe())
    report = {
        "schema_version": RESULT_SCHEMA,
        "manifest_sha256": digest,
        "target": manifest["target"],
        "boot": boot(),
        "tensorrt": version,
        "gpu": gpu,
        "remark": remark,
        "engines": [],
        "recommended": None,
    }  # type: Json
    say("TensorRT %s on %s, compute capability %d.%d" % ((version, gpu["name"]) + tuple(gpu["capability"])))
    if remark:
        say("note: %s" % remark)
    build_all(folder, manifest, options, report, version)
    if report["recommended"]:
        say("recommended: %s (%s)" % (report["recommended"]["engine"], report["recommended"]["why"]))
    failed = [engine for engine in report["engines"] if engine["problem"] and not refused(engine, gpu)]
    return 1 if failed or not report["recommended"] else 0


def refused(engine: Json, gpu: Json) -> bool:
    """An engine that this GPU could never run is an answer, not a failure, when another one took its place."""
    return engine["precision"] == "int8" and int8_refusal(gpu["capability"]) is not None


def main(arguments: Optional[List[str]] = None, folder: str = ".") -> int:
    """Run the program on the bundle in `folder`, or on one file; the exit code."""
    return run_program(lambda: run(parse(arguments, folder)))


def run(options: argparse.Namespace) -> int:
    require_writable(options.json)
    return build_file(options) if options.onnx else build_bundle(options)
