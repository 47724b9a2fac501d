"""A run in MLflow's local store: metrics, the configuration as parameters, reports as artifacts, paths as tags.

mlflow ui --backend-store-uri outputs/mlruns
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import MissingExtra, StageError
from compress.report.loggers.base import RunFacts
from compress.support.files import cannot_write
from compress.support.quiet import first_line, quiet

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from compress.report.loggers.config import MlflowLogging

__all__ = ["MlflowLogger", "create", "require"]

_LONGEST_VALUE = 500  # characters of a parameter; the limit of older file stores (mlflow.utils.validation)
_ATTACHED = ("report.*", "*.csv", "*.svg", "manifest.json", "profile.json")
"""What is copied into the store: what people read. Models stay where they are; tags say where."""


def require() -> None:
    """Raise `MissingExtra` where MLflow is not installed."""
    if find_spec("mlflow") is None:
        raise MissingExtra("mlflow", extra="mlflow", needed_for="logger=mlflow")


def create(config: MlflowLogging, facts: RunFacts) -> MlflowLogger:
    """A logger on a new run of the experiment."""
    require()
    # Nothing leaves this machine, and files are enough: MLflow 3.7 and later ask for a word before they use them.
    for variable in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_ALLOW_FILE_STORE"):
        os.environ.setdefault(variable, "true")
    folder = (config.folder or facts.output / "mlruns").absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            return _started(folder, config.experiment, facts)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _started(folder: Path, experiment: str, facts: RunFacts) -> MlflowLogger:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=folder.as_uri())
    try:
        found = client.get_experiment_by_name(experiment)
        place = found.experiment_id if found else client.create_experiment(experiment)
        run = client.create_run(place, run_name=facts.name)
        for name, value in facts.parameters.items():
            client.log_param(run.info.run_id, name, value[:_LONGEST_VALUE])
    except MlflowException as error:
        problem = f"MLflow cannot use {folder}: {first_line(error)}"
        raise StageError(problem, fix="logger.folder=<another one>") from error
    return MlflowLogger(client, run.info.run_id)


class MlflowLogger:
    """Implements `Logger` on one MLflow run."""

    def __init__(self, client: MlflowClient, run: str) -> None:
        self._client = client
        self._run = run

    def scalar(self, series: str, position: int, value: float) -> None:
        self._client.log_metric(self._run, series, value, step=position)

    def finished(self, folder: Path, stages: tuple[str, ...]) -> None:
        self._client.set_tag(self._run, "folder", str(folder.resolve()))
        for place, name in enumerate(stages):
            self._client.set_tag(self._run, f"stage.{place}", name)
        for path in sorted({path for pattern in _ATTACHED for path in folder.glob(pattern)}):
            self._client.log_artifact(self._run, str(path))

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")
