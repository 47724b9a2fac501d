"""What `bench_robustness.py` runs: one input that may be malformed, and the door it comes in by."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Case", "Generator", "generated", "mutated", "write"]


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        name: its kind, and where it was put.
        prepare: writes its files into an empty folder, which is the working folder then.
        run: gives it to the program; returns the exit code. A `CompressError` is one, too.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[], object]


Generator = Callable[[int, int], Iterator[Case]]
"""From a number of inputs and a seed; the same two give the same inputs, and more inputs begin with those of fewer."""


def generated(count: int, seed: int, one: Callable[[random.Random], Case]) -> Iterator[Case]:
    """So many inputs, each from a random state of its own."""
    for number in range(count):
        case = one(random.Random(f"{seed}:{number}"))
        yield Case(f"{number:04d} {case.name}", case.prepare, case.run)


def write(files: Mapping[str, bytes]) -> Callable[[Path], None]:
    """Write files by their paths below the folder."""

    def prepare(folder: Path) -> None:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    return prepare


def mutated(content: bytes, rng: random.Random, tokens: tuple[bytes, ...], most: int = 6) -> bytes:
    """A content with a few places cut out, doubled, turned over, or with a token put in."""
    for _ in range(rng.randint(1, most)):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice((1, 1, 2, 8, 40)))
        change = rng.randrange(4)
        if change == 0:
            content = content[:start] + content[end:]
        elif change == 1:
            content = content[:end] + content[start:]
        elif change == 2:
            content = (
                content[:start] + bytes(byte ^ (1 << rng.randrange(8)) for byte in content[start:end]) + content[end:]
            )
        else:
            content = content[:start] + rng.choice(tokens) + content[start:]
    return content
