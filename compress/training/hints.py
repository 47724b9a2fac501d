"""Hints: inner outputs of the student follow the teacher's (Romero et al. 2015, "FitNets", equation 3).

Class scores are few numbers per image. Whole feature maps say more, which counts where images are few; a network that
lost blocks or inner channels still has the places where the two must agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from compress.core.errors import StageError, names_near
from compress.models.watching import watched

__all__ = ["hint_loss", "outputs_of", "require_parts"]


def require_parts(module: nn.Module, names: Sequence[str], whose: str) -> None:
    """Raise `StageError`, listing near names, for the first of `names` that is no part of the module."""
    known = [name for name, _ in module.named_modules() if name]
    for name in names:
        if name not in known:
            near = names_near(name, known) if known else "a captured graph has none: give Python code"
            raise StageError(f"hint {name!r} is no part of the {whose}", fix=near)


@contextmanager
def outputs_of(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """The outputs of the named parts by name, as they run inside the block."""
    parts = {module.get_submodule(name): name for name in names}
    outputs: dict[str, torch.Tensor] = {}

    def look(part: nn.Module, arguments: object, named: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            outputs[parts[part]] = output

    with watched(parts, look):
        yield outputs


def hint_loss(student: dict[str, torch.Tensor], teacher: dict[str, torch.Tensor]) -> torch.Tensor:
    """`sum_k |s_k - t_k|^2 / |t_k|^2`: each part counts alike, however large its values are.

    Args:
        student: outputs by name, any shape.
        teacher: outputs of the same names and shapes, without gradient.

    Returns:
        A scalar in float32.

    Raises:
        StageError: a part gave no tensor, or another shape than the teacher's.
    """
    total = torch.zeros(())
    for name, expected in teacher.items():
        actual = student.get(name)
        if actual is None or actual.shape != expected.shape:
            shape = "no tensor" if actual is None else str(list(actual.shape[1:]))
            raise StageError(
                f"hint {name!r}: the student gives {shape} there, the teacher {list(expected.shape[1:])}",
                fix="name parts whose outputs pruning leaves as they were: a stage that lost blocks, not channels",
            )
        error = (actual.float() - expected.float()).square().mean() / expected.float().square().mean().clamp_min(1e-12)
        total = total.to(error.device) + error
    return total
