"""Constants of a file, computed only where they are small: `Expand` and `Tile` make any size from a stored number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["BoundedTensors"]

_MOST_BYTES = 1 << 30
"""The largest weight of a classifier, VGG's first linear layer, takes 0.4 GiB."""


class BoundedTensors(TorchDispatchMode):
    """Refuse operators whose result takes more than a GiB, before they run.

    Raises:
        ValueError: from the operator.
    """

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        named = dict(kwargs or {})
        size = _result_bytes(func, args, named)
        if size > _MOST_BYTES:
            raise ValueError(f"a constant of {size / 2**30:.1f} GiB, more than {_MOST_BYTES >> 30}")
        return func(*args, **named)


def _result_bytes(func: torch._ops.OpOverload, args: tuple[object, ...], kwargs: dict[str, object]) -> int:
    """Bytes of the results, found without computing them; 0 where they depend on values, and so are no larger."""
    if func.is_view:
        return 0
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs = {**kwargs, "device": torch.device("meta")}
    try:
        results = func(*tree_map(_without_values, args), **tree_map(_without_values, kwargs))
    except Exception:  # has no form without values, or is wrong, which running it says
        return 0
    return sum(leaf.nbytes for leaf in tree_leaves(results) if isinstance(leaf, torch.Tensor))


def _without_values(leaf: object) -> object:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
