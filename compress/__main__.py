"""`python -m compress target=<device>`: compose, check, run, print."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from compress import __version__
from compress.core.errors import CompressError
from compress.pipeline import cli
from compress.support.command import fail, require_memory_for, run_command

if TYPE_CHECKING:
    from rich.console import Console

    from compress.pipeline.run import Finished
    from compress.report.progress import RichProgress

__all__ = ["main"]

_CONTINUES = "; the same command continues after the last finished stage"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0 done, 1 a stage failed, 2 bad configuration, 130 interrupted,
    143 terminated."""
    # onnxruntime's Linux wheels send telemetry unless told otherwise before they are imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    typed = sys.argv[1:] if arguments is None else arguments
    return run_command(lambda: _dispatch(cli.parse(typed)), _CONTINUES)


def _dispatch(command: cli.Command) -> int:
    if command.version:
        print(f"edge-compress {__version__}")
        return 0
    if command.help:
        print(cli.help_text(command.config_folder))
        return 0
    if command.show_config:
        return _show_config(command)
    return _run(command)


def _show_config(command: cli.Command) -> int:
    import yaml

    from compress.config.compose import compose_tree

    print(yaml.safe_dump(compose_tree(command.overrides, command.config_folder), sort_keys=False), end="")
    return 0


def _run(command: cli.Command) -> int:
    require_memory_for("torch", "onnxruntime")
    from compress.report.progress import RichProgress, Verbosity, details_to
    from compress.report.terminal import console as make_console
    from compress.support.allocator import keep_freed_memory, let_idle_threads_sleep

    keep_freed_memory()
    let_idle_threads_sleep()
    verbosity = Verbosity.QUIET if command.quiet else Verbosity.VERBOSE if command.verbose else Verbosity.NORMAL
    console = make_console()
    progress = RichProgress(console, verbosity)
    with details_to(progress) if command.verbose else nullcontext():
        return _multirun(command, console, progress) if command.multirun else _single(command, console, progress)


def _single(command: cli.Command, console: Console, progress: RichProgress) -> int:
    from compress.pipeline.request import Request
    from compress.pipeline.run import run_once

    finished = run_once(Request(command.overrides, command.config_folder), progress)
    _show(finished, console, command.quiet)
    return max(map(fail, finished.failures), default=0)


def _multirun(command: cli.Command, console: Console, progress: RichProgress) -> int:
    """Every combination in turn; one that fails does not stop the others. The page is written anew after each."""
    from compress.config.compose import expand_sweep
    from compress.pipeline.request import Request
    from compress.pipeline.run import run_once
    from compress.report.pages import PAGE, write_multirun
    from compress.report.terminal import print_comparison, run_heading
    from compress.results.multirun import Failure

    done: list[Finished] = []
    failed: list[Failure] = []
    folder: Path | None = None
    exit_code = 0
    combinations = expand_sweep(command.overrides)
    started = time.monotonic()
    for number, overrides in enumerate(combinations):
        if not command.quiet:
            run_heading(console, overrides, number, len(combinations), time.monotonic() - started)
        try:
            done.append(run_once(Request(overrides, command.config_folder), progress))
            _show(done[-1], console, command.quiet)
            exit_code = max([exit_code, *map(fail, done[-1].failures)])
        except CompressError as error:
            exit_code = max(exit_code, fail(error))
            failed.append(Failure(overrides, str(error)))
        if done:
            folder = write_multirun([(run.folder, run.report) for run in done], failed, earlier=folder)
    if not command.quiet:
        print_comparison(console, [finished.report for finished in done])
        if folder is not None:
            console.print(f"comparison in {folder / PAGE}", soft_wrap=True, markup=False)
    return exit_code


def _show(finished: Finished, console: Console, quiet: bool) -> None:
    from compress.report.terminal import print_run, print_verdict

    show = print_verdict if quiet else print_run
    show(console, finished.report, finished.folder)


if __name__ == "__main__":
    sys.exit(main())
