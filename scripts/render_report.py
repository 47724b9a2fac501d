"""Draw a run's terminal report as an SVG picture.

python scripts/render_report.py outputs/raspberry_pi_4/<time>/report.json docs/report.svg
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from rich.console import Console

from compress.report.terminal import print_run
from compress.results.report import Report
from compress.support.files import write_bytes

WIDTH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    print_run(console, Report.from_json(options.report.read_bytes()), options.report.parent)
    title = f"python -m compress target={Report.from_json(options.report.read_bytes()).target}"
    write_bytes(options.picture, console.export_svg(title=title).encode())


if __name__ == "__main__":
    main()
