"""Interface of every logger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Logger", "RunFacts", "flattened"]


@dataclass(frozen=True)
class RunFacts:
    """Facts known of a run before it starts.

    Attributes:
        name: `<target>/<time>`.
        output: folder of all results.
        parameters: the whole configuration, flat: `stage.magnitude.amount` -> `0.3`.
    """

    name: str
    output: Path
    parameters: Mapping[str, str]


class Logger(Protocol):
    """Receives one run."""

    def scalar(self, series: str, position: int, value: float) -> None:
        """One figure: `stages/top1` at a stage's place in the recipe, `finetune/loss` at an epoch."""
        ...

    def finished(self, folder: Path, stages: tuple[str, ...]) -> None:
        """The run lies in `folder`; `stages` are the names of the positions in `stages/...`."""
        ...

    def close(self, *, failed: bool) -> None:
        """Nothing more comes."""
        ...


def flattened(tree: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """A nested configuration with dotted keys and its values as text; lists stay whole."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
