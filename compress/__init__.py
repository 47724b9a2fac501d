"""Model compression pipeline for edge devices: prune, quantize, export, measure.

Importing this package is cheap on purpose: torch and the runtimes are imported where they are used.
"""

import os
import sys

# `python -m compress...` or the script that `pip` makes: the first lines of ours that run
if os.path.basename(sys.argv[0] if sys.argv else "") in ("-m", "edge-compress"):  # noqa: PTH119
    from compress.support.working_folder import leave_working_folder

    leave_working_folder()

    from compress.support.signals import end_at_once_on_ctrl_c

    end_at_once_on_ctrl_c()

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compress.core.stage import Progress
    from compress.pipeline.run import Finished

__all__ = ["__version__", "run"]

__version__ = "0.1.0"


def run(
    overrides: "Sequence[str]", *, config_folder: "Path | None" = None, progress: "Progress | None" = None
) -> "Finished":
    """Compress a model for a device, as `python -m compress <overrides>` does, without printing anything.

    Args:
        overrides: as typed on the command line: `target=raspberry_pi_4`, `stage.magnitude.amount=0.5`, ...
        config_folder: configurations of your own, as with `--config-dir`.
        progress: told of stages and epochs; None for silence.

    Returns:
        The run folder, its report, and the accuracy budgets and devices that it missed.

    Raises:
        ConfigError: the request is wrong; no stage was started.
        StageError: a stage failed; the stages before it are found again by the next run.
    """
    from compress.core.stage import Silent
    from compress.pipeline.request import Request
    from compress.pipeline.run import run_once

    return run_once(Request(tuple(overrides), config_folder), progress or Silent())
