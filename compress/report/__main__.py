"""`python -m compress.report outputs/<target>/<time>`: build the page again from `report.json`, or compare several."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from compress.core.errors import ConfigError
from compress.support.arguments import ArgumentParser
from compress.support.command import run_command
from compress.support.reading import is_folder

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 written, 1 not writable, 2 not a report."""
    typed = sys.argv[1:] if arguments is None else arguments
    return run_command(lambda: _build(_parser().parse_args(typed)))


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser("python -m compress.report", __doc__)
    runs = "a run folder or a multirun folder; several are compared"
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=runs)
    page = "the page; default: report.html in the folder, or comparison.html here"
    parser.add_argument("--output", type=Path, metavar="FILE", help=page)
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="also write every plot as SVG and PNG")
    return parser


def _build(options: argparse.Namespace) -> int:
    from compress.report.pages import export_plots, page_of, read_reports, refresh, write_page

    given: Sequence[Path] = options.runs
    output: Path | None = options.output
    plots: Path | None = options.plots
    reports = read_reports(given)
    if output is not None and is_folder(output):
        raise ConfigError(f"--output {output} is a folder", fix=f"--output {output / 'report.html'}")
    page = page_of(reports)
    if output is None and len(given) == 1:
        output = refresh(given[0], reports)
    else:
        output = output or Path("comparison.html")
        write_page(page, output)
    print(f"report: {output}")
    if plots is not None:
        print(f"plots: {len(export_plots(page, plots))} files in {plots}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
