"""Measure one artifact at one stage boundary, in its own runtime, on the thing itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import DeviceMissing
from compress.core.measurement import Caveat, CaveatKind, IntegerShare, Latency, Measurement, Sparsity
from compress.core.stage import Progress, Splits
from compress.formats.registry import open_file, release_large, support_of
from compress.formats.runner import Runner
from compress.measure.accuracy import Evaluation, evaluate
from compress.measure.host import Host, describe_host, int8_trusted
from compress.measure.latency import latency, one_sample
from compress.measure.reference import RecordedLogits
from compress.measure.settings import MeasureConfig
from compress.measure.unmeasured import NotMeasured, attempt, unless_absent

if TYPE_CHECKING:
    from compress.formats.base import OpenFile

__all__ = ["MeasureConfig", "RecordedLogits", "int8_exact", "measure"]

_SKIPPED = "measure=quick: the source and the files are run, the modules in between are not"

_HALF_ZERO = 0.4
"""Fewer zeros than this are no 2:4 pattern: a layer or two stay dense, the others have one half."""


def measure(
    artifact: Artifact,
    *,
    stage: str,
    reference: RecordedLogits | None,
    splits: Splits,
    config: MeasureConfig,
    progress: Progress,
    recorded: RecordedLogits | None = None,
) -> Measurement:
    """Everything about `artifact` that can be measured here; the rest is None with the reason in `caveats`.

    Latency is of one sample at `config.threads`; accuracy is over the whole evaluation split, with all cores, or from
    the logits `recorded` there before. `config.scope` says what of a module between source and file is measured.
    Seconds and memory of the stage itself are the pipeline's to add.

    Raises:
        StageError: the artifact does not load or run.
    """
    if artifact.deferred:
        return _deferred(artifact, stage)
    try:
        return _measured(artifact, stage, reference, splits, config, progress, recorded)
    finally:
        release_large()


def _measured(
    artifact: Artifact,
    stage: str,
    reference: RecordedLogits | None,
    splits: Splits,
    config: MeasureConfig,
    progress: Progress,
    recorded: RecordedLogits | None,
) -> Measurement:
    host, file = describe_host(), open_file(artifact)
    notes, caveats = dict(artifact.notes), _caveats(artifact, host)
    try:
        run = file.runner(threads=config.threads)
    except DeviceMissing as missing:
        return _read_only(artifact, stage, caveats, missing)
    size = attempt("size_bytes", caveats, file.size)
    timed, evaluation = None, None
    if config.scope == "quick" and artifact.format is Format.TORCH and artifact.history:
        caveats.update(dict.fromkeys(("latency", "accuracy"), Caveat(CaveatKind.MISSING, _SKIPPED)))
    else:
        timed = _latency(run, artifact.input, config, host)
        runner = recorded.replay(run.name) if recorded else None
        evaluation = unless_absent(
            "accuracy",
            caveats,
            lambda: _evaluate(artifact, runner or file.answers(), reference, splits, config, progress, stage),
        )
    sparsity = attempt("sparsity", caveats, file.sparsity)
    if sparsity is not None:
        notes.update(attempt("2:4", {}, lambda: _pattern_note(file, sparsity)) or {})
    if reference is None:
        caveats["fidelity"] = Caveat(CaveatKind.MISSING, "no reference outputs were given")
    return Measurement(
        stage=stage,
        format=artifact.format,
        precision=artifact.precision,
        runtime=run.name,
        size_bytes=size.size_bytes if size else None,
        size_gzip_bytes=size.gzip_bytes if size else None,
        parameters=attempt("parameters", caveats, file.parameters),
        macs=attempt("macs", caveats, file.macs),
        sparsity=sparsity,
        integers=_integers(artifact, file, notes, caveats),
        latency=timed,
        accuracy=evaluation.accuracy if evaluation else None,
        fidelity=evaluation.fidelity if evaluation else None,
        feed=_feed(artifact, stage),
        notes=notes,
        caveats=caveats,
    )


def _integers(
    artifact: Artifact, file: OpenFile, notes: dict[str, str], caveats: dict[str, Caveat]
) -> IntegerShare | None:
    """Measure what of an INT8 file is in integers, also in words; None for a format that does not show it."""
    if artifact.precision is not Precision.INT8:
        return None
    reasons: dict[str, Caveat] = {}
    share = attempt("integers", reasons, file.integers)
    if support_of(artifact.format).shows_integers:
        caveats.update(reasons)
    if share is not None:
        parts = [(share.macs, "multiply-accumulates"), (share.weights, "weights")]
        notes["integers"] = " and ".join(
            f"{100 * part:.0f} % of the {word}" for part, word in parts if part is not None
        )
    return share


def _read_only(artifact: Artifact, stage: str, caveats: dict[str, Caveat], missing: DeviceMissing) -> Measurement:
    """Measure what can be said of a file that only its device can run."""
    size, absent = open_file(artifact).size(), Caveat(CaveatKind.MISSING, missing.problem)
    return Measurement(
        stage=stage,
        format=artifact.format,
        precision=artifact.precision,
        runtime=f"{artifact.format}, not run",
        size_bytes=size.size_bytes,
        size_gzip_bytes=size.gzip_bytes,
        feed=_feed(artifact, stage),
        notes=artifact.notes,
        caveats={**caveats, **dict.fromkeys(("latency", "accuracy", "fidelity"), absent)},
    )


def _deferred(artifact: Artifact, stage: str) -> Measurement:
    """The row of something that is made elsewhere before it can run."""
    reason = support_of(artifact.format).made_elsewhere
    return Measurement(
        stage=stage,
        format=artifact.format,
        precision=artifact.precision,
        runtime=f"{artifact.format}, on the device",
        feed=_feed(artifact, stage),
        notes=artifact.notes,
        caveats=dict.fromkeys(("latency", "accuracy"), Caveat(CaveatKind.MISSING, reason)),
    )


def _feed(artifact: Artifact, stage: str) -> str | None:
    """The stage before `stage` in the artifact's history; `source` before the first, None for the source itself."""
    if not artifact.history:
        return None
    earlier = artifact.history[:-1] if artifact.history[-1] == stage else artifact.history
    return earlier[-1] if earlier else "source"


def _latency(run: Runner, spec: InputSpec, config: MeasureConfig, host: Host) -> Latency:
    return latency(
        run,
        one_sample(spec),
        runs=config.latency_runs,
        warmup=config.latency_warmup,
        seconds=config.latency_seconds,
        threads=config.threads,
        device=host.label,
    )


def _evaluate(
    artifact: Artifact,
    runner: Runner,
    reference: RecordedLogits | None,
    splits: Splits,
    config: MeasureConfig,
    progress: Progress,
    stage: str,
) -> Evaluation:
    return evaluate(
        runner,
        splits.evaluation,
        None if reference is None else reference.open(),
        batch_size=artifact.fitting(config.batch_size),
        progress=progress,
        description=f"evaluate {stage}",
    )


def _pattern_note(file: OpenFile, sparsity: Sparsity) -> dict[str, str]:
    """Count the layers that follow the 2:4 pattern, where most do; by chance they do not."""
    if sparsity.fraction < _HALF_ZERO:
        return {}
    found = file.pattern(2, 4)
    if 2 * found.following < found.layers:
        return {}
    return {
        "2:4": f"{found.following} of {found.layers} layers of the file have at most 2 non-zero weights in 4 inputs; "
        "a runtime gains from it only where it is told to (TensorRT: SPARSE_WEIGHTS)"
    }


def _caveats(artifact: Artifact, host: Host) -> dict[str, Caveat]:
    """Say what the numbers that will be measured here do not say about the device."""
    caveats = {}
    emulation = support_of(artifact.format).emulation(artifact.precision, host.architecture)
    if emulation:
        caveats["latency"] = Caveat(CaveatKind.EMULATED, emulation)
    if not int8_exact(artifact, host):
        caveats["accuracy"] = Caveat(
            CaveatKind.UNTRUSTED,
            f"8-bit products may saturate on this CPU ({host.label}), which shows no VNNI or AMX; "
            "the device may differ",
        )
    return caveats


def int8_exact(artifact: Artifact, host: Host) -> bool:
    """Tell whether nothing that the artifact multiplies on `host` saturates: there are no 8-bit products of a file
    whose weights take all 8 bits, on a processor that sums them in 16."""
    multiplies = artifact.precision is Precision.INT8 and support_of(artifact.format).multiplies_bytes
    if not multiplies or int8_trusted(host, reduce_range=False):
        return True
    try:
        return int8_trusted(host, reduce_range=open_file(artifact).in_7_bits())
    except NotMeasured:
        return False
