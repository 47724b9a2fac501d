"""Write `report.html` and `report.md` of a run or of several, and read the reports they are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import ConfigError
from compress.report.markdown import comparison_markdown, run_markdown
from compress.results.manifest import update_files
from compress.results.multirun import MULTIRUN, Failure, read_multirun, save_multirun
from compress.results.report import REPORT, Report
from compress.support.files import write_bytes
from compress.support.reading import is_file, is_folder, read_bytes

if TYPE_CHECKING:
    from compress.report.html.blocks import Page

__all__ = ["PAGE", "Reports", "export_plots", "page_of", "read_reports", "refresh", "run_pages"]
__all__ += ["write_multirun", "write_page"]

PAGE = "report.html"
MARKDOWN = "report.md"
_MOST_LAYERS = 500  # in the picture of a scan: 9,000 pixels


@dataclass(frozen=True)
class Reports:
    """Runs to report on, with their folders, and what was asked of those that failed with the error."""

    runs: tuple[tuple[Path, Report], ...]
    failures: tuple[tuple[str, str], ...] = ()
    compared: bool = False


def read_reports(given: Sequence[Path]) -> Reports:
    """Read run folders (or their `report.json`) and multirun folders.

    Raises:
        ConfigError: one is neither, is damaged or of another schema, or no run is left.
    """
    runs: list[tuple[Path, Report]] = []
    failures: list[tuple[str, str]] = []
    several = False
    for path in given:
        folder = path.parent if path.name in (REPORT, PAGE, MULTIRUN) else path
        if is_file(folder / MULTIRUN):
            several = True
            record, members = read_multirun(folder)
            runs += [(member, _read(member)) for member in members if is_file(member / REPORT)]
            failures += [(" ".join(failure.overrides), failure.error) for failure in record.failures]
            gone = [member for member in members if not is_file(member / REPORT)]
            failures += [(str(member), "the run folder is gone") for member in gone]
        else:
            runs.append((folder, _read(folder)))
    if not runs:
        raise ConfigError(f"no run is left of {', '.join(map(str, given))}", fix="give run folders that exist")
    return Reports(tuple(runs), tuple(failures), compared=len(runs) > 1 or several)


def page_of(reports: Reports) -> Page:
    """The page about one run, or about several.

    Raises:
        ConfigError: what a stage left beside a report is damaged.
    """
    if reports.compared:
        from compress.report.html.compare_page import compare_page

        return compare_page([report for _, report in reports.runs], reports.failures)
    from compress.report.html.run_page import read_run, run_page

    ((folder, report),) = reports.runs
    return run_page(read_run(report, folder))


def write_page(page: Page, path: Path) -> None:
    """Write a page."""
    write_bytes(path, _rendered(page))


def run_pages(report: Report, folder: Path) -> dict[str, bytes]:
    """`report.html` and `report.md` about the run in `folder`, and a picture of each scan there, by name."""
    return _pages(Reports(((folder, report),)))


def refresh(given: Path, reports: Reports) -> Path:
    """Write both pages anew into the one folder that was given; the run's manifest knows them by their checksums.

    Returns:
        The HTML page.
    """
    folder = given if is_folder(given) else given.parent
    update_files(folder, _pages(reports))
    return folder / PAGE


def write_multirun(
    runs: Sequence[tuple[Path, Report]], failures: Sequence[Failure], *, earlier: Path | None = None
) -> Path:
    """Write the record and both pages about several finished runs and those that failed; the folder they are in.

    Args:
        earlier: what this returned after fewer runs of the same command.
    """
    failed = tuple((" ".join(failure.overrides), failure.error) for failure in failures)
    pages = _pages(Reports(tuple(runs), failed, compared=True))
    return save_multirun([folder for folder, _ in runs], failures, pages, earlier=earlier)


def _pages(reports: Reports) -> dict[str, bytes]:
    runs = [report for _, report in reports.runs]
    page = {PAGE: _rendered(page_of(reports))}
    if reports.compared:
        return {**page, MARKDOWN: comparison_markdown(runs, reports.failures)}
    return {**page, MARKDOWN: run_markdown(runs[0]), **_pictures(reports.runs[0][0])}


def _pictures(folder: Path) -> dict[str, bytes]:
    """A picture beside the table of every scan in a run folder, `<stage>.svg`."""
    from compress.report.html.layer_plots import scan_plot
    from compress.report.html.plot import svg_file
    from compress.report.html.scans import read_scans

    return {f"{scan.stage}.svg": svg_file(scan_plot(scan, _MOST_LAYERS)) for scan in read_scans(folder)}


def _rendered(page: Page) -> bytes:
    from compress.report.html.render import render

    return render(page)


def export_plots(page: Page, folder: Path) -> list[Path]:
    """Write every plot of a page as `<name>.svg` and `<name>.png`."""
    from compress.report.html.plot import png, svg_file

    written = []
    for plot in page.plots:
        for suffix, content in ((".svg", svg_file(plot)), (".png", png(plot))):
            written.append(folder / f"{plot.name}{suffix}")
            write_bytes(written[-1], content)
    return written


def _read(folder: Path) -> Report:
    path = folder / REPORT
    try:
        return Report.from_json(read_bytes(path))
    except OSError as error:
        fix = "give a run folder, outputs/<target>/<time>, or outputs/multirun/<time>"
        raise ConfigError(f"cannot read {path}: {error.strerror or error}", fix=fix) from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.problem}", fix=error.fix) from error
