"""`python -m compress.device.preflight model.tflite`: what a file holds, and what the Edge TPU compiler would map.

Any `.tflite` file, whoever made it; nothing is run, and neither the compiler nor a device is needed.

Exit code 0: read; 2: a wrong request, or a file that is none.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from compress.device.preflight.contents import Contents, examine
from compress.formats.edgetpu.table import NEWEST_RUNTIME, OLDEST_RUNTIME
from compress.support.arguments import ArgumentParser
from compress.support.command import run_command

__all__ = ["main"]

_SCHEMA = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code as above."""
    return run_command(lambda: _examined(_parser().parse_args(sys.argv[1:] if arguments is None else arguments)))


def _examined(options: argparse.Namespace) -> int:
    examined = [examine(path, options.runtime) for path in options.files]
    print(_json(examined) if options.json else "\n\n".join("\n".join(contents.lines()) for contents in examined))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser("python -m compress.device.preflight", (__doc__ or "").strip())
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a .tflite file")
    runtimes = range(OLDEST_RUNTIME, NEWEST_RUNTIME + 1)
    text = f"oldest Edge TPU runtime it must run on, {OLDEST_RUNTIME} to {NEWEST_RUNTIME}; default the newest"
    parser.add_argument("--runtime", type=int, choices=runtimes, default=NEWEST_RUNTIME, metavar="N", help=text)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def _json(examined: Sequence[Contents]) -> str:
    files = [{**asdict(contents), "path": str(contents.path)} for contents in examined]
    return json.dumps({"schema": _SCHEMA, "files": files}, indent=2, allow_nan=False)


if __name__ == "__main__":
    sys.exit(main())
