"""Event files for TensorBoard: scalars, the configuration as hyper-parameters, the report and where files lie as text.

tensorboard --logdir outputs/tensorboard
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from compress.core.errors import MissingExtra
from compress.report.loggers.base import RunFacts
from compress.support.files import cannot_write, new_folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.writer import FileWriter

    from compress.report.loggers.config import TensorboardLogging

__all__ = ["TensorboardLogger", "create", "require"]

_REPORT = "report.md"


def require() -> None:
    """Raise `MissingExtra` where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise MissingExtra("tensorboard", extra="tensorboard", needed_for="logger=tensorboard")


def create(config: TensorboardLogging, facts: RunFacts) -> TensorboardLogger:
    """A logger that writes into a folder of its own for this run."""
    require()
    from torch.utils.tensorboard import SummaryWriter

    folder = (config.folder or facts.output / "tensorboard") / facts.name
    try:
        folder = new_folder(folder)
        return TensorboardLogger(SummaryWriter(str(folder)), facts)
    except OSError as error:
        raise cannot_write(folder, error) from error


class TensorboardLogger:
    """Implements `Logger` on one event file."""

    def __init__(self, writer: SummaryWriter, facts: RunFacts) -> None:
        self._writer = writer
        self._facts = facts
        self._last: dict[str, float] = {}

    def scalar(self, series: str, position: int, value: float) -> None:
        self._last[series] = value
        self._writer.add_scalar(series, value, position)

    def finished(self, folder: Path, stages: tuple[str, ...]) -> None:
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        self._writer.add_text("stages", _listed(f"{place}: {name}" for place, name in enumerate(stages)))
        self._writer.add_text("artifacts", f"`{folder.resolve()}`\n\n" + _listed(files))
        if (folder / _REPORT).is_file():
            self._writer.add_text("report", (folder / _REPORT).read_text(encoding="utf-8"))

    def close(self, *, failed: bool) -> None:
        self._add_parameters(failed)
        self._writer.close()

    def _add_parameters(self, failed: bool) -> None:
        """The HPARAMS tab: the configuration against the last value of every series.

        `SummaryWriter.add_hparams` would put it into a second run; these are the three records that it writes.
        """
        from torch.utils.tensorboard.summary import hparams

        events = cast("FileWriter", self._writer.file_writer)
        parameters = {**self._facts.parameters, "run": "failed" if failed else "finished"}
        for record in hparams(parameters, self._last):
            events.add_summary(record)


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)
