"""Whether malformed inputs get one line each, thousands of them, and whether killed runs leave nothing wrong behind.

    python scripts/bench_robustness.py [--json PATH] [--section inputs|kills]... [--seed N] [--jobs N]
                                       [--inputs N] [--door NAME]... [--kills N] [--scenario NAME]...

Section `kills` ends runs at random moments and sees whether the next ones are as if nothing had been: see
`robustness_kills.py`. Section `inputs` is about doors.

A door is where inputs come in. Those of one subject are a module `robustness_<subject>.py` beside this file, with a
function for each that `_DOORS` names: from (count, seed) to so many `Case`s (`robustness_case.Generator`). A module
that is not there is left out.

A `Case` is a name for people, `prepare(folder)` which writes the input's files into an empty folder, and `run()` which
gives them to the program, as its user would (`compress.__main__.main([...])` or another command), and returns the exit
code. The same count and seed give the same cases; a larger count begins with those of a smaller one (`generated` sees
to both). Making a case must be cheap, as all are made in one process: what takes time or memory belongs into `prepare`.
Both `prepare` and `run` are called in a child that was forked after all imports, with `folder` as its working folder;
what the module imports at its top is therefore loaded once. Limits of time and memory are set after `prepare`.

What comes of an input is

    clean        exit code 0; or 1 or 2 and on standard error only lines that begin with `error: `, one for each run
    traceback    an exception got out, or there is another line
    memory       it took 4 GiB, or was about to
    time         it had not ended in time
    crash        a signal ended it
    left         it ended well, and left unfinished work or a damaged stored stage

The bar is 0 of everything but clean. Exit code 1 where it is missed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench_common import Bar, at_least, at_most, report
from rich.console import Console
from robustness_case import Generator
from robustness_kills import SCENARIOS, Kill, kills
from robustness_runner import FAULTS, Outcome, outcomes

_DOORS = {
    "yaml_files": "robustness_yaml",
    "overrides": "robustness_yaml",
    "paths": "robustness_paths",
    "data_sets": "robustness_data",
    "graphs": "robustness_graphs",
    "programs": "robustness_programs",
    "checkpoints": "robustness_checkpoints",
    "documents": "robustness_documents",
}
"""Generators, and the modules they are in."""
_SECONDS = 60.0
_SHOWN = 8

console = Console(width=140)


def doors() -> dict[str, Generator]:
    """The generators whose modules are there, by their names."""
    there = {door: module for door, module in _DOORS.items() if importlib.util.find_spec(module) is not None}
    return {door: getattr(importlib.import_module(module), door) for door, module in there.items()}


def main() -> int:
    generators = doors()
    options = _arguments(sorted(generators))
    sections = options.section or ["inputs", "kills"]
    bars = [
        *(_inputs(generators, options) if "inputs" in sections else ()),
        *(_kills(options) if "kills" in sections else ()),
    ]
    report(bars, options.json)
    return 0 if all(bar.holds for bar in bars) else 1


def _inputs(generators: Mapping[str, Generator], options: argparse.Namespace) -> Iterator[Bar]:
    """Give every door its inputs."""
    found: dict[str, list[Outcome]] = {}
    for door, count in _shares(options.inputs, options.door or sorted(generators)).items():
        started = time.monotonic()
        found[door] = list(outcomes(generators[door](count, options.seed), options.jobs, options.seconds))
        _show(door, found[door], time.monotonic() - started)
        if options.outcomes is not None:
            _write_outcomes(options.outcomes, options.seed, found)
        for kind in FAULTS:
            yield at_most(f"{door}, n={count}: {kind}", _number(found[door], kind), 0, "inputs")


def _kills(options: argparse.Namespace) -> Iterator[Bar]:
    """Kill so many runs; a bar for each kind of run, and one for all."""
    names = tuple(options.scenario or SCENARIOS)
    done: list[Kill] = []
    started = time.monotonic()
    for kill in kills(options.kills, options.seed, options.jobs, names):
        done.append(kill)
        faults = "; ".join(kill.faults) or "as if nothing had been"
        console.print(
            f"kill {len(done)} of {options.kills}: {kill.scenario}, {kill.signal} after {kill.after} s: {faults}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"{len(done)} kills in {time.monotonic() - started:.0f} s", highlight=False)
    for name in names:
        if ours := [kill for kill in done if kill.scenario == name]:
            yield at_least(f"kills, {name}", sum(not kill.faults for kill in ours), len(ours), "mended")
    yield at_least("kills, all", sum(not kill.faults for kill in done), options.kills, "mended")


def _arguments(names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the bars as a JSON list")
    parser.add_argument("--section", action="append", choices=("inputs", "kills"), help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2, help="at a time; default the cores")
    parser.add_argument("--inputs", type=int, default=3000, help="of all doors together; default 3000")
    parser.add_argument("--door", action="append", choices=names, help="only this one; may be repeated")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="longest time for one input; default 60")
    parser.add_argument("--outcomes", type=Path, metavar="PATH", help="also write what came of every input, as JSON")
    parser.add_argument("--kills", type=int, default=200, help="default 200")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this kind of run; may be repeated")
    return parser.parse_args()


def _shares(inputs: int, names: Sequence[str]) -> dict[str, int]:
    """So many inputs for each door that they are `inputs` together."""
    each, left = divmod(inputs, len(names))
    return {door: each + (place < left) for place, door in enumerate(names)}


def _number(found: Sequence[Outcome], kind: str) -> int:
    return sum(outcome.kind == kind for outcome in found)


def _write_outcomes(path: Path, seed: int, found: dict[str, list[Outcome]]) -> None:
    document = {"seed": seed, "doors": {door: [vars(one) for one in ended] for door, ended in found.items()}}
    path.write_text(json.dumps(document, indent=1) + "\n")


def _show(door: str, found: Sequence[Outcome], seconds: float) -> None:
    counts = ", ".join(f"{_number(found, kind)} {kind}" for kind in ("clean", *FAULTS))
    slowest = max((outcome.seconds for outcome in found), default=0.0)
    largest = max((outcome.peak_mib for outcome in found), default=0.0)
    console.print(
        f"{door}: {len(found)} inputs in {seconds:.0f} s: {counts}; "
        f"at most {slowest:.1f} s and {largest:.0f} MiB for one",
        highlight=False,
        soft_wrap=True,
    )
    for outcome in [one for one in found if one.kind != "clean"][:_SHOWN]:
        console.print(f"  {outcome.kind}: {outcome.name}: {outcome.detail}", markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
