"""Trying passes one after another, and keeping each that proves equal and measures better."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from compress.core.errors import CompressError
from compress.formats.onnx.write import write_checked
from compress.measure.race import race
from compress.optimize.document import Attempt
from compress.optimize.facts import GraphFacts, graph_facts, with_shapes
from compress.optimize.guard import broken_promise
from compress.optimize.passes import ONNXRUNTIME_ONLY, GraphPass
from compress.support.quiet import first_line, quiet

if TYPE_CHECKING:
    from compress.core.artifact import Artifact
    from compress.core.measurement import LatencyRatio
    from compress.optimize.equivalence import Equivalence

__all__ = ["THREADS", "Bench", "Chosen", "choose", "clearly_slower"]

THREADS = 1
"""What files are raced with: less at the mercy of what else the machine does."""

_CLEAR = 0.01
"""A file raced against itself stays within this: every round of a race has to show more before it counts."""

_GROWTH, _GROWTH_BYTES = 0.005, 1024
"""Names and written-out defaults may make a file this much larger, whichever is more; anything beyond is content."""


@dataclass(frozen=True)
class Bench:
    """Conditions under which candidates are judged.

    Attributes:
        artifact: the source; candidates are the same artifact in another file.
        seconds: longest time for one comparison of latency.
        metadata: written into every candidate.
    """

    artifact: Artifact
    equivalence: Equivalence
    seconds: float
    metadata: Mapping[str, str]

    def race(self, first: Path, second: Path) -> LatencyRatio:
        """Time of the file `first` over that of `second`."""
        files = (replace(self.artifact, model=path) for path in (first, second))
        return race(*files, threads=THREADS, seconds=self.seconds)


@dataclass(frozen=True)
class Chosen:
    """The graph after all passes that were kept; `model` is the source itself where none was."""

    model: onnx.ModelProto
    path: Path
    facts: GraphFacts
    onnxruntime_only: bool = False


def choose(
    source: Chosen, candidates: Iterable[GraphPass], bench: Bench, folder: Path, tell: Callable[[Attempt], None]
) -> tuple[Chosen, tuple[Attempt, ...]]:
    """Let every pass work on what the ones before it made, and keep it only if nothing gets worse by it.

    Args:
        folder: for candidates; may be removed when the chosen one has been raced.
        tell: is told of every attempt as it ends.
    """
    chosen, attempts = source, []
    for candidate in candidates:
        result, attempt = _try(candidate, chosen, bench, folder / f"{candidate.name}.onnx")
        attempts.append(attempt)
        tell(attempt)
        chosen = result if attempt.outcome == "kept" else chosen
    return chosen, tuple(attempts)


def clearly_slower(latency: LatencyRatio) -> bool:
    """Tell whether the whole interval lies above what noise explains."""
    return latency.low > 1 + _CLEAR


def _try(graph_pass: GraphPass, current: Chosen, bench: Bench, path: Path) -> tuple[Chosen, Attempt]:
    """Return what the pass makes of `current`, and the verdict."""
    attempt = Attempt(graph_pass.name, graph_pass.does, "failed", "")
    own = current.onnxruntime_only or graph_pass.name == ONNXRUNTIME_ONLY
    try:
        model = _rewritten(graph_pass, current.model)
        broken = broken_promise(current.model, model, onnxruntime_only=own)
        if broken is not None:
            return current, replace(attempt, outcome="not kept", reason=broken)
        if _same(current.model, model):
            return current, replace(attempt, outcome="changes nothing", reason="nothing to do", facts=current.facts)
        write_checked(ir.serde.deserialize_model(model), path, bench.metadata)
        result = Chosen(model, path, graph_facts(path, model.graph.value_info), own)
    except Exception as error:  # a library's optimizer may raise anything on a graph it has never seen
        return current, replace(attempt, reason=_reason(error))
    return result, _judged(attempt, current, result, bench)


def _judged(attempt: Attempt, current: Chosen, result: Chosen, bench: Bench) -> Attempt:
    proof = bench.equivalence.prove(result.path, onnxruntime_only=result.onnxruntime_only)
    attempt = replace(attempt, facts=result.facts, max_abs_error=proof.max_abs_error)
    if proof.problem is not None:
        return replace(attempt, outcome="failed", reason=f"it computes something else: {proof.problem}")
    worse = _worse(current.facts, result.facts)
    if worse is not None:
        return replace(attempt, outcome="not kept", reason=worse)
    latency = bench.race(result.path, current.path)
    attempt = replace(attempt, latency=latency)
    if clearly_slower(latency):
        return replace(attempt, outcome="not kept", reason="slower")
    better = _better(current.facts, result.facts, latency)
    if better is None:
        return replace(attempt, outcome="not kept", reason="it does not help: as many nodes, as large, as fast")
    return replace(attempt, outcome="kept", reason=better)


def _rewritten(graph_pass: GraphPass, model: onnx.ModelProto) -> onnx.ModelProto:
    """The pass's output without what no runtime reads; the pass gets a copy that it may edit, with shapes."""
    with quiet():
        result = ir.serde.deserialize_model(graph_pass.run(with_shapes(model)))
    with quiet():
        common.RemoveUnusedNodesPass()(result)
        common.RemoveUnusedFunctionsPass()(result)
        common.RemoveUnusedOpsetsPass()(result)
    return ir.serde.serialize_model(result)


def _same(before: onnx.ModelProto, after: onnx.ModelProto) -> bool:
    """Tell whether nothing but names changed: as many nodes of each type, and the same constants."""
    return _content(before) == _content(after)


def _content(model: onnx.ModelProto) -> tuple[list[str], list[tuple[int, tuple[int, ...]]]]:
    nodes = sorted(node.op_type for node in model.graph.node)
    return nodes, sorted((tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer)


def _worse(before: GraphFacts, after: GraphFacts) -> str | None:
    if after.nodes > before.nodes:
        return f"{_count(after.nodes - before.nodes)} more"
    if after.run_nodes > before.run_nodes:
        return f"ONNX Runtime runs {_count(after.run_nodes - before.run_nodes)} more"
    if after.size_bytes > before.size_bytes + max(_GROWTH * before.size_bytes, _GROWTH_BYTES):
        return f"the file is {after.size_bytes / before.size_bytes:.2f}x as large"
    return None


def _better(before: GraphFacts, after: GraphFacts, latency: LatencyRatio) -> str | None:
    """Say what is gained; None if nothing is."""
    gains = []
    if after.nodes < before.nodes:
        gains.append(f"{_count(before.nodes - after.nodes)} fewer")
    if after.run_nodes < before.run_nodes:
        gains.append(f"ONNX Runtime runs {_count(before.run_nodes - after.run_nodes)} fewer")
    if after.size_bytes < before.size_bytes - max(_GROWTH * before.size_bytes, _GROWTH_BYTES):
        gains.append(f"the file is {after.size_bytes / before.size_bytes:.2f}x as large")
    if latency.high < 1 - _CLEAR:
        gains.append("faster")
    return ", ".join(gains) or None


def _count(nodes: int) -> str:
    return f"{nodes} node{'s' * (nodes != 1)}"


def _reason(error: Exception) -> str:
    return error.problem if isinstance(error, CompressError) else f"{type(error).__name__}: {first_line(error)}"
