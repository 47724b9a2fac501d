"""All tasks by name, and the one for samples that nobody labelled."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from compress.core.errors import ConfigError, nearest
from compress.tasks.audio_classification import AudioClassificationTask
from compress.tasks.base import Task
from compress.tasks.classification import ClassificationTask
from compress.tasks.detection.task import DetectionTask
from compress.tasks.fidelity import FidelityTask
from compress.tasks.keypoints.task import KeyPointsTask
from compress.tasks.regression import RegressionTask
from compress.tasks.retrieval import RetrievalTask
from compress.tasks.segmentation import SegmentationTask

__all__ = ["TASKS", "for_data", "task_class"]

_ALL: tuple[type[Task], ...] = (
    ClassificationTask,
    DetectionTask,
    SegmentationTask,
    KeyPointsTask,
    RegressionTask,
    RetrievalTask,
    AudioClassificationTask,
    FidelityTask,
)

TASKS: Mapping[str, type[Task]] = MappingProxyType({task.name: task for task in _ALL})


def task_class(name: str) -> type[Task]:
    """The task of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TASKS:
        raise ConfigError(f"task {name!r} is unknown", fix=nearest(name, TASKS))
    return TASKS[name]


def for_data(task: Task, *, labelled: bool) -> Task:
    """The task as asked for, or `fidelity` where the data has no labels to judge by."""
    return task if labelled or not task.metrics else FidelityTask()
