"""One class per recording: scored as any classification is."""

from __future__ import annotations

from typing import ClassVar

from compress.tasks.classification import ClassificationTask

__all__ = ["AudioClassificationTask"]


class AudioClassificationTask(ClassificationTask):
    """Scores for every class, one row per recording (MLPerf Tiny: keyword spotting)."""

    name: ClassVar[str] = "audio_classification"
