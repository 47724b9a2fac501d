"""`python -m compress.device bench user@host --bundle outputs/<target>/<run>/bundle`: measure a run on its device."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.errors import CompressError, one_line
from compress.support.arguments import ArgumentParser
from compress.support.command import run_command

if TYPE_CHECKING:
    from compress.device.transport import Transport
    from compress.results.bundle import Bundle

__all__ = ["main"]

_LARGEST = 1 << 16  # threads, or images at once
_LONGEST_SECONDS = 86_400.0  # a day for one figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 all measured, 1 a device or a model failed, 2 wrong request, 130 interrupted."""
    typed = sys.argv[1:] if arguments is None else arguments
    last_word = "; a benchmark that was started goes on there, the next one waits for it"
    return run_command(lambda: _command(typed), last_word)


def _command(typed: Sequence[str]) -> int:
    options = _parser().parse_args(typed)
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser("python -m compress.device", __doc__)
    commands = parser.add_subparsers(required=True, parser_class=ArgumentParser)
    bench = commands.add_parser("bench", help="copy a bundle, run its benchmark there, bring the numbers back")
    _bundle(bench)
    _devices(bench)
    bench.add_argument("--seconds", type=_seconds, default=30.0, help="longest time for one figure; default 30")
    bench.add_argument("--models", type=_names, default=(), metavar="A,B", help="only these models")
    bench.add_argument("--threads", type=_numbers, default=(), metavar="1,4", help="default: 1 and all cores")
    bench.add_argument("--batch", type=_numbers, default=(), metavar="1,8", help="for models with a free batch size")
    bench.add_argument("--any-device", action="store_true", help="also on another architecture than the bundle's")
    bench.set_defaults(command=_bench)
    deploy = commands.add_parser("deploy", help="copy a bundle and prepare its runtime there, measure nothing")
    _bundle(deploy)
    _devices(deploy)
    deploy.set_defaults(command=_deploy)
    check = commands.add_parser("check", help="see whether a device can be reached and what it is")
    _devices(check)
    check.set_defaults(command=_check)
    verify = commands.add_parser("verify", help="compare a bundle with its manifest")
    _bundle(verify)
    verify.set_defaults(command=_verify)
    return parser


def _bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")


def _devices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("devices", nargs="+", help="user@host[:port], a name of the inventory, or local")
    parser.add_argument("--devices", dest="inventory", type=Path, help="inventory; default devices.yaml if it is there")
    parser.add_argument("--identity", type=Path, help="file of a private key")
    parser.add_argument("--ssh-config", type=Path, help="file to read instead of ~/.ssh/config")
    parser.add_argument("-q", "--quiet", action="store_true", help="only results and errors, nothing about the way")


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 1 or max(numbers) > _LARGEST:
        raise argparse.ArgumentTypeError(f"write numbers from 1 to {_LARGEST}")
    return numbers


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(f"write seconds, more than 0 and at most {_LONGEST_SECONDS:g}")
    return seconds


def _bundle_and_devices(options: argparse.Namespace) -> tuple[Bundle, dict[str, Transport]]:
    """The verified bundle, and a way to each device it goes to."""
    from compress.device.inventory import find_devices
    from compress.results.bundle import read_bundle

    bundle = read_bundle(options.bundle)
    devices = find_devices(
        options.devices,
        inventory=options.inventory,
        target=bundle.manifest.target,
        identity=options.identity,
        ssh_config=options.ssh_config,
    )
    return bundle, devices


def _bench(options: argparse.Namespace) -> int:
    from compress.device.fleet import measure_all
    from compress.device.visit import BenchOptions
    from compress.pipeline.attach import attach

    bundle, devices = _bundle_and_devices(options)
    how = BenchOptions(
        seconds=options.seconds,
        models=options.models,
        threads=options.threads,
        batch=options.batch,
        any_device=options.any_device,
    )
    fleet = measure_all(devices, bundle, how, _say_nothing if options.quiet else _say)
    for line in attach(bundle, fleet.runs):
        print(one_line(line))
    for error in fleet.failures.values():
        print(f"error: {error}", file=sys.stderr)
    failed = max((error.exit_code for error in fleet.failures.values()), default=0)
    return max(failed, 0 if all(run.valid for run in fleet.runs) else 1)


def _deploy(options: argparse.Namespace) -> int:
    from compress.device.visit import deploy

    bundle, devices = _bundle_and_devices(options)
    for name, transport in devices.items():
        python = deploy(transport, bundle, _say_nothing if options.quiet else _say)
        print(one_line(f"{name}: ready: {python} ~/.cache/edge-compress/bundles/{bundle.digest}/benchmark.py"))
    return 0


def _check(options: argparse.Namespace) -> int:
    from compress.device.inventory import find_devices
    from compress.device.visit import check_device

    devices = find_devices(
        options.devices,
        inventory=options.inventory,
        target=None,
        identity=options.identity,
        ssh_config=options.ssh_config,
    )
    code = 0
    for transport in devices.values():
        try:
            print(check_device(transport))
        except CompressError as error:  # noqa: PERF203  the others are still to be checked
            print(f"error: {error}", file=sys.stderr)
            code = 1
    return code


def _verify(options: argparse.Namespace) -> int:
    from compress.results.bundle import read_bundle

    bundle = read_bundle(options.bundle)
    print(f"{options.bundle}: {len(bundle.manifest.files)} files as the manifest {bundle.digest[:12]} says")
    return 0


def _say(text: str) -> None:
    print(one_line(text), flush=True)


def _say_nothing(text: str) -> None:
    """Drop the line: nobody wants to hear."""


if __name__ == "__main__":
    sys.exit(main())
