"""Build every engine of a bundle, check it, and race those that compute what they should."""

import argparse
import os
from typing import Optional, Sequence

from ..golden import compare
from ..golden_file import read_golden
from ..isolation import isolated
from ..program import say
from ..runners.tensorrt import TensorRtRunner
from ..saving import saver
from ..timing import measure
from ..values import Json, Problem
from .limits import MIB, refusal, require_memory
from .network import build, import_tensorrt
from .plans import Plan, plans, trtexec

FP16_TOLERANCE = {"sqnr_db": 20.0}  # of an engine in FP16 from a float file, as for FP16 files


def build_model(folder: str, manifest: Json, model: Json, plan: Plan, seconds: float) -> Json:
    """Build, compare with the golden outputs, time; runs in a process of its own."""
    tensorrt = import_tensorrt()
    require_memory(plan.workspace, os.path.getsize(plan.onnx))
    result = build(tensorrt, plan)
    runner = TensorRtRunner(plan.engine, model, 1)
    result["golden"] = check(runner, folder, manifest, model, plan)
    if result["golden"]["passed"]:
        sample = read_golden(folder, manifest, model)[0][:1]
        feed = runner.prepare(sample.repeat(runner.batch or runner.smallest, axis=0))
        result["latency"] = measure(runner.run, feed, seconds)
    return result


def check(runner: TensorRtRunner, folder: str, manifest: Json, model: Json, plan: Plan) -> Json:
    """Golden outputs are of the file in its own precision; FP16 arithmetic on a float file may differ as FP16 may."""
    import numpy

    inputs, expected = read_golden(folder, manifest, model)
    step = runner.batch or runner.largest
    rounds = -(-len(inputs) // step) * step
    padded = numpy.resize(inputs, (rounds,) + inputs.shape[1:])  # a fixed batch takes nothing less than a whole one
    parts = [numpy.array(runner.logits(padded[i : i + step])) for i in range(0, rounds, step)]
    limits = model["tolerance"]
    tolerance = limits.get("tensorrt") or limits["any"]
    if plan.precision == "fp16" and model["precision"] == "fp32":
        tolerance = FP16_TOLERANCE
    return compare(expected, numpy.concatenate(parts)[: len(inputs)], tolerance)


def recommend(engines: Sequence[Json]) -> Optional[Json]:
    """The fastest engine that computes what it should, and what it was faster than, in words."""
    right = [engine for engine in engines if not engine["problem"] and engine.get("latency")]
    if not right:
        return None
    ranked = sorted(right, key=lambda engine: engine["latency"]["median_ms"])
    best = ranked[0]
    text = ", ".join("%s %.3f ms" % (engine["engine"], engine["latency"]["median_ms"]) for engine in ranked)
    slower = [e for e in ranked if e["precision"] == "int8" and best["precision"] != "int8"]
    if slower:
        text += "; INT8 is slower here"
    return {"engine": best["engine"], "precision": best["precision"], "stage": best["stage"], "why": text}


def build_all(folder: str, manifest: Json, options: argparse.Namespace, report: Json, version: str) -> None:
    """Every plan in turn into `report`, saved after each."""
    save = saver(options.json)
    for model, plan in plans(folder, manifest, options, report["gpu"]):
        line = trtexec(plan, version, "input", model["sample_shape"])
        result = {"stage": model["stage"], "engine": os.path.basename(plan.engine), "precision": plan.precision}
        reason = refusal(plan.precision, report["gpu"])
        say("%s: building in %s (minutes); the same with %s" % (model["path"], plan.precision, line))
        try:
            if reason:
                raise Problem(reason, "the float file is built in FP16; see precision=fp16 of the project")
            result.update(isolated(lambda: build_model(folder, manifest, model, plan, options.seconds)))
            golden = result["golden"]
            result["problem"] = None if golden["passed"] else "golden outputs do not match: %s" % golden["reason"]
        except Problem as error:
            result["problem"] = str(error)
        result["trtexec"] = line
        report["engines"].append(result)
        say(row(result))
        save(report)
    report["recommended"] = recommend(report["engines"])
    save(report)


def row(result: Json) -> str:
    if result["problem"]:
        return "  %s: NOT USED: %s" % (result["engine"], result["problem"])
    layers = ", ".join("%d %s" % (count, kind) for kind, count in sorted(result["layers"].items()))
    facts = (result["engine"], result["size_bytes"] / float(MIB), result["build_seconds"], layers or "not listed")
    return "  %s: %.1f MiB in %.0f s; layers: %s; %.3f ms" % (facts + (result["latency"]["median_ms"],))
