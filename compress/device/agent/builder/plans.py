"""Plans of the engines to build of a bundle's files."""

import argparse
import os
import shlex
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..arguments import MOST
from ..checks import flag, integer, optional, record, sequence, text
from ..files import AGAIN, read_plain
from ..json_text import LARGEST_BYTES, parse_json
from ..values import Json, Problem
from ..versions import version_numbers
from .limits import MIB, choose_workspace, fp16_refusal

PLAN_SUFFIX = ".plan.json"
PRECISIONS = ("fp32", "fp16", "int8")
LARGEST_WORKSPACE_MIB = 1 << 20
PLAN = record(
    {"onnx": text},
    {
        "batch": sequence(integer(1, MOST), 3, 3),
        "dla_core": optional(integer(0, 1)),
        "workspace_mib": optional(integer(1, LARGEST_WORKSPACE_MIB)),
        "sparse": flag,
    },
)


class Plan(NamedTuple):
    """One engine to build.

    `precision` is of the arithmetic: fp32, fp16 or int8 (int8 leaves the rest in FP16). `batch` is the smallest, the
    usual and the largest batch, for a file whose batch is free. `calibration` is a cache for implicit INT8, for files
    without Q/DQ. `sparse` lets the builder use 2:4 sparse kernels. `tactics` names the only libraries it may use.
    """

    onnx: str
    engine: str
    precision: str
    workspace: int
    batch: Tuple[int, int, int] = (1, 1, 1)
    dla_core: Optional[int] = None
    timing_cache: Optional[str] = None
    calibration: Any = None
    sparse: bool = False
    tactics: Tuple[str, ...] = ()


def builder_flags(plan: Plan) -> List[str]:
    names = {"fp32": [], "fp16": ["FP16"], "int8": ["INT8", "FP16"]}[plan.precision]
    return names + ["SPARSE_WEIGHTS"] * plan.sparse + ["GPU_FALLBACK"] * (plan.dla_core is not None)


def asked_for(folder: str, manifest: Json) -> Dict[str, Json]:
    """Read what the maker asked for, by ONNX file: the bundle's `*.plan.json`."""
    found = {}
    for path in (entry["path"] for entry in manifest["files"]):
        if path.endswith(PLAN_SUFFIX):
            plan = parse_plan(path, read_plain(os.path.join(folder, path), LARGEST_BYTES))
            found[plan["onnx"]] = plan
    return found


def parse_plan(path: str, content: bytes) -> Json:
    try:
        plan: Json = parse_json(content)
        PLAN(plan, "")
        batch = plan.get("batch", [])
        if batch != sorted(batch):
            raise ValueError("batch is %s, not smallest, usual, largest" % batch)
    except ValueError as error:
        raise Problem("%s is not a plan: %s" % (path, error), AGAIN, 2)
    return plan


def plans(folder: str, manifest: Json, options: argparse.Namespace, gpu: Json) -> List[Tuple[Json, Plan]]:
    """Plans to build: every chosen ONNX file in its own precision, and FP16 of the float files to race INT8 with.

    An option on the command line goes before what the maker's plan says.
    """
    models, planned = chosen(manifest, options.models), asked_for(folder, manifest)
    race = any(model["precision"] == "int8" for model in models)
    found = []
    for model in models:
        precisions = [options.precision or model["precision"]]
        if precisions[0] not in PRECISIONS:
            reason = "%s has the precision %r" % (model["path"], precisions[0])
            raise Problem("%s; engines are built in %s" % (reason, ", ".join(PRECISIONS)), "--precision fp32", 2)
        if model["precision"] == "fp32" and race and not options.precision and not fp16_refusal(gpu["capability"]):
            precisions.append("fp16")
        for precision in precisions:
            path = os.path.join(folder, model["path"])
            mark = "" if precision == model["precision"] else "." + precision
            asked = planned.get(model["path"], {})
            batch = options.batch or tuple(asked.get("batch", (1, 1, 1)))
            dla_core = asked.get("dla_core") if options.dla_core is None else options.dla_core
            plan = Plan(
                onnx=path,
                engine=os.path.splitext(path)[0] + mark + ".engine",
                precision=precision,
                workspace=choose_workspace(options.workspace_mib or asked.get("workspace_mib"), gpu["free_bytes"]),
                batch=batch if model.get("dynamic_batch") else (1, 1, 1),
                dla_core=dla_core,
                timing_cache=os.path.join(folder, "timing.cache"),
                sparse=options.sparse or bool(asked.get("sparse")),
                tactics=tuple(options.tactics),
            )
            found.append((model, plan))
    return found


def chosen(manifest: Json, names: Optional[str]) -> List[Json]:
    models = [model for model in manifest["models"] if model["format"] == "onnx"]
    stages = [model["stage"] for model in models]
    for name in names.split(",") if names else []:
        if name not in stages:
            raise Problem("no ONNX file %r in this bundle; it has %s" % (name, ", ".join(stages)), code=2)
    return [model for model in models if not names or model["stage"] in names.split(",")]


def trtexec(plan: Plan, version: str, input_name: str, sample: Sequence[int]) -> str:
    """The command of NVIDIA's own tool that builds the same engine."""
    workspace = plan.workspace // MIB
    files = [shlex.quote(os.path.basename(path)) for path in (plan.onnx, plan.engine)]
    parts = ["trtexec", "--onnx=%s" % files[0], "--saveEngine=%s" % files[1]]
    parts += ["--%s" % flag.lower() for flag in ("INT8", "FP16") if flag in builder_flags(plan)]
    parts += ["--noTF32"] * (plan.precision == "fp32")
    old = version_numbers(version) < [8, 4]
    parts.append("--workspace=%d" % workspace if old else "--memPoolSize=workspace:%d" % workspace)
    if plan.batch != (1, 1, 1):
        shape = "x".join(str(size) for size in sample)
        names = ("--minShapes", "--optShapes", "--maxShapes")
        parts += ["%s=%s:%dx%s" % (name, input_name, size, shape) for name, size in zip(names, plan.batch)]
    if plan.dla_core is not None:
        parts += ["--useDLACore=%d" % plan.dla_core, "--allowGPUFallback"]
    return " ".join(parts + ["--sparsity=enable"] * plan.sparse)
