"""Whether anything wrong leaves in silence: the default command on real networks, judged on images it has not seen.

    python scripts/bench_honesty.py [--json PATH] [--data FOLDER] [--sections budget gates imports padding cost]

Every section is a function that gives bars, in a file `honesty_<section>.py`.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from bench_common import Bar, arguments, report
from honesty_budget import budget
from honesty_cost import cost_bars
from honesty_gates import gate_costs
from honesty_import import bars as import_bars
from honesty_import import forms
from honesty_import import judge as judge_form
from honesty_padding import padding_bars

SECTIONS: dict[str, Callable[[Namespace, Path], list[Bar]]] = {
    "budget": lambda options, folder: budget(options.data, options.nets, folder, options.weights),
    "gates": lambda options, folder: gate_costs(options.data),
    "imports": lambda options, folder: import_bars([judge_form(form) for form in forms()]),
    "padding": lambda options, folder: padding_bars(),
    "cost": lambda options, folder: cost_bars(options.data),
}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--nets", nargs="+", default=[], help="networks of the section budget; all by default")
    parser.add_argument("--weights", type=Path, help="folder of honesty_networks.py, for the section budget")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bars = [bar for name in options.sections for bar in SECTIONS[name](options, Path(folder))]
    report(bars, options.json)


if __name__ == "__main__":
    main()
