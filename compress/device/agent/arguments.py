"""Command lines of the agent's programs."""

import argparse
import math
import os
import sys
from typing import Callable, List, Tuple

from .values import Problem

MOST = 1 << 16  # threads, or images at a time: more than any board has or takes


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as everything here does."""

    def error(self, message: str) -> None:  # type: ignore[override]  # argparse exits
        raise Problem("command line: %s" % message, "python3 %s --help" % os.path.basename(sys.argv[0]), 2)


def numbers(text: str) -> List[int]:
    """`1,4`; argparse shows the error of any other."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = [0]
    if min(values) < 1 or max(values) > MOST:
        raise argparse.ArgumentTypeError("%r is not whole numbers from 1 to %d, such as 1,4" % (text, MOST))
    return values


def positive_seconds(text: str) -> float:
    """A finite time above 0; argparse shows the error of any other."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("%r is not a number of seconds above 0, such as 30" % text)
    return value


def batches(text: str) -> Tuple[int, int, int]:
    """`8`, or smallest, usual and largest like `1,8,32`; argparse shows the error of any other."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values *= 3
    if len(values) != 3 or min(values) < 1 or max(values) > MOST or values != sorted(values):
        raise argparse.ArgumentTypeError("give one batch, or smallest,usual,largest like 1,8,32; got %r" % text)
    return values[0], values[1], values[2]


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number from `low` to `high`; argparse shows the error of any other."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError("%r is not a whole number from %d to %d" % (text, low, high))
        return value

    return convert


def bundle_parser(description: str, folder: str, models: str) -> Parser:
    """A parser with the options that every program here begins with; `models` says which are taken by default."""
    parser = Parser(description=description)
    parser.add_argument("--bundle", default=folder, help="folder of the bundle")
    parser.add_argument("--models", metavar="A,B", help="only these stages; default: %s" % models)
    return parser


def add_result_options(parser: Parser, figure: str, seconds: float) -> None:
    """Add the options for how long one `figure` may take, and where the results go."""
    text = "longest time for one %s; default %g" % (figure, seconds)
    parser.add_argument("--seconds", type=positive_seconds, default=seconds, help=text)
    parser.add_argument("--json", metavar="FILE", help="write the results there as well")
