"""`python -m compress.doctor`: what will work on this machine, and what to install for the rest.

Exit code 0: the default job works here; 1: it does not; 2: a wrong request.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from compress import __version__
from compress.core.errors import ConfigError
from compress.doctor.check import Check, Level
from compress.doctor.packages import examine_packages
from compress.doctor.view import draw
from compress.support.arguments import ArgumentParser
from compress.support.command import run_command
from compress.support.reading import is_folder

__all__ = ["examine", "main"]

_SCHEMA = 1
_JOB = "python -m compress target=jetson_nano"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code as above."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    typed = sys.argv[1:] if arguments is None else arguments
    return run_command(lambda: _diagnose(_parser().parse_args(typed)))


def _diagnose(options: argparse.Namespace) -> int:
    checks = examine(options.config_dir, options.output)
    broken = [check for check in checks if check.fatal]
    print(_json(checks, not broken) if options.json else _text(checks, broken))
    return 1 if broken else 0


def examine(config_folder: Path | None = None, output: Path | None = None) -> list[Check]:
    """All findings. Where a package is missing that everything needs, the packages are all there is to say.

    Raises:
        ConfigError: `config_folder` is not a folder, or holds a target that is wrong.
    """
    packages = examine_packages()
    if any(check.fatal for check in packages):
        later = "looked at when the packages above are installed"
        return [*packages, *(Check(group, group, Level.NOTE, later) for group in ("machine", "targets", "stages"))]
    if config_folder is not None and not is_folder(config_folder):
        raise ConfigError(f"--config-dir {config_folder} is not a folder")
    from compress.doctor.machine import examine_machine
    from compress.doctor.recipes import examine_stages, examine_targets
    from compress.measure.host import describe_host

    machine = examine_machine(describe_host(), output or _default_output())
    return [*machine, *packages, *examine_targets(config_folder), *examine_stages(config_folder)]


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser("python -m compress.doctor", (__doc__ or "").strip())
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where results would go; default as in a run")
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="FOLDER", help="your own configurations, as in a run")
    return parser


def _default_output() -> Path:
    from compress.support.plain_yaml import read_yaml
    from compress.support.resources import conf_folder

    config = read_yaml(conf_folder() / "config.yaml")
    assert isinstance(config, dict)  # our own file
    return Path(str(config["output"]))


def _text(checks: Sequence[Check], broken: Sequence[Check]) -> str:
    if not broken:
        verdict = f"The default job works here: {_JOB}"
    else:
        verdict = f"The default job does not work here ({_JOB}): {', '.join(check.name for check in broken)}"
    return f"edge-compress {__version__}\n{draw(checks, sys.stdout)}\n\n{verdict}"


def _json(checks: Sequence[Check], works: bool) -> str:
    return json.dumps(
        {"schema": _SCHEMA, "version": __version__, "works": works, "checks": [asdict(check) for check in checks]},
        indent=2,
    )


if __name__ == "__main__":
    sys.exit(main())
