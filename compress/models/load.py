"""Load the model of a configuration as an artifact that is known to run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import ModelError
from compress.formats.registry import by_suffix, open_file
from compress.models.configs import DigitsModel, FactoryModel, FileModel, ModelConfig, TorchvisionModel
from compress.support.garbage import collector_paused

if TYPE_CHECKING:
    from torch import nn

    from compress.core.artifact import Artifact, Format
    from compress.core.stage import Progress, Split
    from compress.formats.base import FormatSupport

__all__ = ["is_tflite", "load_model", "model_digest", "self_contained", "source_format"]


def load_model(
    config: ModelConfig,
    *,
    trusted: Callable[[str], bool],
    seed: int,
    progress: Progress,
    finetune: Split | None,
) -> Artifact:
    """Load the model that `config` names and run it once on zeros of the declared shape.

    Args:
        trusted: whether code of a top-level package may be run.
        seed: of random weights and of the embedded model's training.
        finetune: what the embedded model is trained on; other kinds ignore it.

    Returns:
        An artifact with a module in eval mode, or a checked ONNX file. `dynamic_batch` is False where the model takes
        a batch of one only; its notes say how much of it a checkpoint filled.

    Raises:
        ModelError: missing, truncated, unsafe, not a classifier of the declared input, or a file that takes more time
            or memory than its configuration allows.
    """
    with collector_paused():  # PyTorch's own import: a fifth of it is looking for garbage
        from compress.graph.activation_bytes import widest_operator
        from compress.graph.probe import probe_module
        from compress.graph.sound import refuse_unsound
    from compress.core.artifact import Artifact, Format, Precision

    spec = config.input.spec()
    if isinstance(config, FileModel):
        from compress.models.trial import try_graph

        try_graph(config.path, spec, config)
        if (support := _as_it_is(config)) is not None:
            return support.load_source(config.path, spec)
    told: list[str] = []
    module = _module(config, trusted=trusted, seed=seed, progress=progress, finetune=finetune, say=told.append).eval()
    for line in told:
        progress.log(line)
    refuse_unsound(module, _origin(config))
    dynamic = probe_module(module, spec)
    notes, widest = {"weights": "; ".join(told)} if told else {}, widest_operator(module, spec)
    return Artifact(
        Format.TORCH, module, Precision.FP32, spec, dynamic_batch=dynamic, notes=notes, activation_bytes=widest
    )


def _origin(config: ModelConfig) -> str:
    """Origin of the weights, for messages: a file, if there is one."""
    if isinstance(config, FileModel):
        return str(config.path)
    return str(config.checkpoint or config.factory) if isinstance(config, FactoryModel) else config.kind


def _module(
    config: ModelConfig,
    *,
    trusted: Callable[[str], bool],
    seed: int,
    progress: Progress,
    finetune: Split | None,
    say: Callable[[str], None],
) -> nn.Module:
    """Build it; `say` gets what the report has to tell about its weights."""
    if isinstance(config, TorchvisionModel):
        from compress.models.torchvision_models import build_torchvision

        return build_torchvision(config, seed)
    if isinstance(config, FactoryModel):
        from compress.models.factory import build_from_factory

        return build_from_factory(config, trusted, seed, say)
    if isinstance(config, FileModel):
        from compress.models.graph_files import load_graph_file

        return load_graph_file(config.path, config.input.spec())
    from compress.models.digits import load_digits_model

    assert isinstance(config, DigitsModel)
    if finetune is None or len(finetune) == 0:
        raise ModelError("model=digits is trained on the fine-tuning split, which is empty", fix="data.finetune=null")
    return load_digits_model(config, finetune, seed, progress)


def source_format(config: ModelConfig) -> Format:
    """Format of the artifact that `load_model` will return, known without loading anything."""
    from compress.core.artifact import Format

    support = _as_it_is(config) if isinstance(config, FileModel) else None
    return Format.TORCH if support is None else support.format


def _as_it_is(config: FileModel) -> FormatSupport | None:
    """The format of a file that a pipeline starts from as it is; None for what is loaded as a module."""
    support = by_suffix(config.path)
    return support if support is not None and support.is_source else None


def is_tflite(path: Path) -> bool:
    """Tell whether a file is TFLite, by its suffix or by the mark in its first bytes; it may be missing."""
    if path.suffix.lower() == ".tflite":
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(8)[4:] == b"TFL3"  # file_identifier of LiteRT's schema.fbs
    except OSError:
        return False


def self_contained(artifact: Artifact, folder: Path) -> Artifact:
    """The same model in one file: weights that lie beside an ONNX file are put into a copy of it below `folder`.

    Everything that reads, measures, copies and delivers files then has the whole model in its hands.

    Raises:
        StageError: `folder` cannot be written.
    """
    return open_file(artifact).self_contained(folder)


def model_digest(artifact: Artifact) -> str:
    """Hex SHA-256 of everything the model computes with: see `compress.formats.digest`."""
    return open_file(artifact).digest()
