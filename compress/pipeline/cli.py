"""The command line: what may be typed, and the text of `--help`. Imports neither Hydra nor torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress import __version__
from compress.core.errors import ConfigError
from compress.support.arguments import ArgumentParser
from compress.support.reading import is_folder
from compress.support.resources import conf_folder, describe_choices

__all__ = ["COMMON_OVERRIDES", "Command", "help_text", "parse"]

_USAGE = "python -m compress target=<device> [key=value ...] [-m] [-v | -q] [--config-dir FOLDER] [--cfg]"

_GROUPS = (
    ("targets (target=...)", "target"),
    ("models (model=...)", "model"),
    ("data (data=...)", "data"),
    ("measuring (measure=...)", "measure"),
    ("loggers (logger=...)", "logger"),
    ("stages", "stage"),
)

COMMON_OVERRIDES = (
    ("model=mobilenet_v2 data=...", "another network, with data; model=factory or model=file for your own"),
    ("data=image_folder data.train=photos/", "your own images, one folder per class"),
    ("precision=int8", "fp32, fp16, int8, int8_qat or int8_auto (keeps an accuracy budget); targets have a default"),
    ("stage.magnitude.amount=0.7", "share of weights set to zero"),
    ("~stage.magnitude", "leave a stage out"),
    ("+stage@stage.scan=prune_scan stage.scan.before=magnitude", "add a stage"),
    ("data.calibration=256", "images that decide the INT8 ranges"),
    ("device.host=pi@raspberrypi", "let the board measure the result, over SSH; device.hosts=[a,b] for several"),
    ("resume=false", "recompute every stage instead of reusing finished ones"),
    ("output=results", "folder for results"),
)


@dataclass(frozen=True)
class Command:
    """A parsed command line."""

    overrides: tuple[str, ...]
    help: bool = False
    version: bool = False
    multirun: bool = False
    show_config: bool = False
    verbose: bool = False
    quiet: bool = False
    config_folder: Path | None = None


def parse(arguments: Sequence[str]) -> Command:
    """Split arguments into flags and Hydra overrides.

    Raises:
        ConfigError: an unknown flag, or a flag without its value.
    """
    parser = ArgumentParser("python -m compress", usage=_USAGE)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("-v", "--verbose", action="store_true")
    amount.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("-c", "--cfg", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    options = parser.parse_intermixed_args(list(arguments))
    return Command(
        overrides=tuple(options.overrides),
        help=options.help,
        version=options.version,
        multirun=options.multirun,
        show_config=options.cfg,
        verbose=options.verbose,
        quiet=options.quiet,
        config_folder=options.config_dir,
    )


def help_text(config_folder: Path | None = None) -> str:
    """The text of `--help`: usage, choices of every group with one line each, and the overrides people use most.

    Raises:
        ConfigError: the folder is none, or a file in it cannot be read.
    """
    if config_folder is not None and not is_folder(config_folder):
        raise ConfigError(f"--config-dir {config_folder} is not a folder")
    sections = [f"edge-compress {__version__}: prune, quantize, export and measure a vision model for an edge device."]
    sections.append(f"usage: {_USAGE}")
    for title, group in _GROUPS:
        sections.append(_table(title, _choices(group, config_folder)))
    sections.append(_table("common overrides", dict(COMMON_OVERRIDES)))
    sections.append(
        "flags\n"
        "  -m, --multirun       run every combination: target=a,b stage.magnitude.amount=0.3,0.5\n"
        "  -v, --verbose        also how stages are wired, what is reused, and the time of every step\n"
        "  -q, --quiet          only errors, and for each run one line: what came out and where it lies\n"
        "  -cd, --config-dir    a folder of your own configurations (target/, model/, data/, stage/, targets/)\n"
        "  -c, --cfg            print the composed configuration and stop\n"
        "  -h, --help  --version"
    )
    return "\n\n".join(sections)


def _choices(group: str, config_folder: Path | None) -> dict[str, str]:
    own = describe_choices(config_folder / group) if config_folder else {}
    return {**describe_choices(conf_folder() / group), **own}


def _table(title: str, rows: dict[str, str]) -> str:
    width = max((len(name) for name in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {text}" for name, text in rows.items())])
