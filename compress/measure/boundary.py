"""Measure one artifact at one stage boundary, in its own runtime, on the thing itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from compress.errors import DeviceMissing
from compress.measure.accuracy import Evaluation, evaluate
from compress.measure.host import Host, describe_host, int8_trusted
from compress.measure.latency import latency, one_sample
from compress.measure.reference import RecordedLogits
from compress.measure.settings import MeasureConfig
from compress.measure.size import Size, file_size, model_files, module_size
from compress.measure.unmeasured import NotMeasured, attempt, unless_absent
from compress.runtimes.base import Runner
from compress.stage import Progress, Splits
from compress.types import (
    Artifact,
    Caveat,
    CaveatKind,
    Format,
    InputSpec,
    IntegerShare,
    Latency,
    Measurement,
    Precision,
    Sparsity,
)

if TYPE_CHECKING:
    import onnx

__all__ = ["MeasureConfig", "RecordedLogits", "int8_exact", "measure"]

_SKIPPED = "measure=quick: the source and the files are run, the modules in between are not"

_OPAQUE = {
    Format.TENSORRT: "an engine does not show its weights; see the ONNX file it was built from",
    Format.EDGETPU: "what is compiled for an Edge TPU does not show its weights; see the TFLite file it was made of",
}
"""Formats that only their device reads."""

_HALF_ZERO = 0.4
"""Fewer zeros than this are no 2:4 pattern: a layer or two stay dense, the others have one half."""


@dataclass(frozen=True)
class _Readers:
    """How one format's quantities are read. Each may raise `NotMeasured`."""

    size: Callable[[], Size]
    parameters: Callable[[], int]
    sparsity: Callable[[], Sparsity]
    macs: Callable[[], int]
    integers: Callable[[], IntegerShare] | None = None


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
    from compress.runtimes import load

    host = describe_host()
    notes, caveats = dict(artifact.notes), _caveats(artifact, host)
    try:
        run = load(artifact, threads=config.threads)
    except DeviceMissing as missing:
        return _read_only(artifact, stage, caveats, missing)
    readers = _readers(artifact, run)
    size = attempt("size_bytes", caveats, readers.size)
    timed, evaluation = None, None
    if config.scope == "quick" and artifact.format is Format.TORCH and artifact.history:
        caveats.update(dict.fromkeys(("latency", "accuracy"), Caveat(CaveatKind.MISSING, _SKIPPED)))
    else:
        timed = _latency(run, artifact.input, config, host)
        runner = recorded.replay(run.name) if recorded else None
        evaluation = unless_absent(
            "accuracy", caveats, lambda: _evaluate(artifact, runner, reference, splits, config, progress, stage)
        )
    sparsity = attempt("sparsity", caveats, readers.sparsity)
    if artifact.format is Format.ONNX and sparsity is not None:
        notes.update(attempt("2:4", {}, lambda: _pattern_note(artifact, sparsity)) or {})
    if reference is None:
        caveats["fidelity"] = Caveat(CaveatKind.MISSING, "no reference outputs were given")
    return Measurement(
        stage=stage,
        format=artifact.format,
        precision=artifact.precision,
        runtime=run.name,
        size_bytes=size.size_bytes if size else None,
        size_gzip_bytes=size.gzip_bytes if size else None,
        parameters=attempt("parameters", caveats, readers.parameters),
        macs=attempt("macs", caveats, readers.macs),
        sparsity=sparsity,
        integers=_integers(artifact, readers, notes, caveats),
        latency=timed,
        accuracy=evaluation.accuracy if evaluation else None,
        fidelity=evaluation.fidelity if evaluation else None,
        feed=_feed(artifact, stage),
        notes=notes,
        caveats=caveats,
    )


def _integers(
    artifact: Artifact, readers: _Readers, notes: dict[str, str], caveats: dict[str, Caveat]
) -> IntegerShare | None:
    """What of an INT8 file is in integers, also in words."""
    if artifact.precision is not Precision.INT8 or readers.integers is None:
        return None
    share = attempt("integers", caveats, readers.integers)
    if share is not None:
        parts = [(share.macs, "multiply-accumulates"), (share.weights, "weights")]
        notes["integers"] = " and ".join(
            f"{100 * part:.0f} % of the {word}" for part, word in parts if part is not None
        )
    return share


def _read_only(artifact: Artifact, stage: str, caveats: dict[str, Caveat], missing: DeviceMissing) -> Measurement:
    """What can be said of a file that only its device can run."""
    size, absent = file_size([artifact.path]), Caveat(CaveatKind.MISSING, missing.problem)
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
    reason = "nothing to measure here: it is made on the device"
    if artifact.format is Format.EDGETPU:
        reason = "nothing to measure here: only what the Edge TPU compiler makes of it runs, on the device"
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
    runner: Runner | None,
    reference: RecordedLogits | None,
    splits: Splits,
    config: MeasureConfig,
    progress: Progress,
    stage: str,
) -> Evaluation:
    from compress.runtimes import load_for_answers

    return evaluate(
        runner or load_for_answers(artifact),
        splits.evaluation,
        None if reference is None else reference.open(),
        batch_size=artifact.fitting(config.batch_size),
        progress=progress,
        description=f"evaluate {stage}",
    )


def _readers(artifact: Artifact, run: Runner) -> _Readers:
    if artifact.format is Format.TORCH:
        return _module_readers(artifact, run)
    if artifact.format is Format.TFLITE:
        return _tflite_readers(artifact)
    if artifact.format in _OPAQUE:
        return _opaque_readers(artifact)
    return _onnx_readers(artifact) if artifact.format is Format.ONNX else _script_readers(artifact, run)


def _module_readers(artifact: Artifact, run: Runner) -> _Readers:
    from compress.measure.macs import torch_macs
    from compress.measure.parameters import module_parameters
    from compress.measure.sparsity import module_sparsity

    module = artifact.module
    return _Readers(
        size=lambda: module_size(module),
        parameters=lambda: module_parameters(module),
        sparsity=lambda: module_sparsity(module),
        macs=lambda: torch_macs(run, one_sample(artifact.input)),
    )


def _onnx_readers(artifact: Artifact) -> _Readers:
    from compress.measure.integers import onnx_integers
    from compress.measure.macs import onnx_macs
    from compress.measure.onnx_graph import onnx_parameters
    from compress.measure.sparsity import onnx_sparsity

    model = cache(lambda: _load_onnx(artifact))
    return _Readers(
        size=lambda: file_size(model_files(artifact.path)),
        parameters=lambda: onnx_parameters(model()),
        sparsity=lambda: onnx_sparsity(model()),
        macs=lambda: onnx_macs(model()),
        integers=lambda: onnx_integers(model()),
    )


def _tflite_readers(artifact: Artifact) -> _Readers:
    from compress.measure.tflite_graph import TfliteFile

    file = cache(lambda: TfliteFile(artifact.path))
    return _Readers(
        size=lambda: file_size([artifact.path]),
        parameters=lambda: file().parameters(),
        sparsity=lambda: file().sparsity(),
        macs=lambda: file().macs(),
        integers=lambda: file().integers(),
    )


def _script_readers(artifact: Artifact, run: Runner) -> _Readers:
    from compress.measure.macs import torch_macs
    from compress.measure.sparsity import torchscript_sparsity
    from compress.measure.torchscript_graph import script_parameters
    from compress.models.script_file import load_script

    return _Readers(
        size=lambda: file_size([artifact.path]),
        parameters=lambda: script_parameters(load_script(artifact.path)),
        sparsity=lambda: torchscript_sparsity(artifact.path),
        macs=lambda: torch_macs(run, one_sample(artifact.input)),
    )


def _pattern_note(artifact: Artifact, sparsity: Sparsity) -> dict[str, str]:
    """Where most layers of a file follow the 2:4 pattern, how many; by chance they do not."""
    if sparsity.fraction < _HALF_ZERO:
        return {}
    from compress.measure.pattern import onnx_pattern

    found = onnx_pattern(_load_onnx(artifact), 2, 4)
    if 2 * found.following < found.layers:
        return {}
    return {
        "2:4": f"{found.following} of {found.layers} layers of the file have at most 2 non-zero weights in 4 inputs; "
        "a runtime gains from it only where it is told to (TensorRT: SPARSE_WEIGHTS)"
    }


def _opaque_readers(artifact: Artifact) -> _Readers:
    def opaque() -> NoReturn:
        raise NotMeasured(_OPAQUE[artifact.format])

    return _Readers(size=lambda: file_size([artifact.path]), parameters=opaque, sparsity=opaque, macs=opaque)


def _load_onnx(artifact: Artifact) -> onnx.ModelProto:
    import onnx

    return onnx.load(artifact.path)


def _caveats(artifact: Artifact, host: Host) -> dict[str, Caveat]:
    """What the numbers that will be measured here do not say about the device."""
    caveats = {}
    emulation = _emulation(artifact.format, artifact.precision, host)
    if emulation:
        caveats["latency"] = Caveat(CaveatKind.EMULATED, emulation)
    if artifact.format is Format.ONNX and artifact.precision is Precision.INT8 and not int8_exact(artifact, host):
        caveats["accuracy"] = Caveat(
            CaveatKind.UNTRUSTED,
            f"8-bit products may saturate on this CPU ({host.label}), which shows no VNNI or AMX; "
            "the device may differ",
        )
    return caveats


def _emulation(format: Format, precision: Precision, host: Host) -> str | None:
    """Why the time of this artifact is not that of its precision's own arithmetic; None if it is."""
    if format is Format.TENSORRT:
        return None
    if precision is Precision.INT8 and format not in (Format.ONNX, Format.TFLITE, Format.EDGETPU):
        return "Q/DQ around float32 arithmetic; INT8 kernels run only in the exported file"
    if precision is Precision.FP16 and format is Format.ONNX and host.architecture.lower() in ("x86_64", "amd64"):
        return "ONNX Runtime computes FP16 in float32 with casts on x86"
    if precision is Precision.FP16 and format is not Format.ONNX:
        return "PyTorch's FP16 kernels for CPUs, not the device's FP16 units"
    return None


def int8_exact(artifact: Artifact, host: Host) -> bool:
    """Whether 8-bit products of an ONNX file are computed here without saturating."""
    if int8_trusted(host, reduce_range=False):
        return True
    from compress.measure.onnx_graph import weights_in_7_bits

    try:
        return int8_trusted(host, reduce_range=weights_in_7_bits(_load_onnx(artifact)))
    except NotMeasured:
        return False
