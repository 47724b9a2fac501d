"""Names of a checkpoint's tensors, made those of the model: what trainers and wrappers put around them comes off."""

from __future__ import annotations

from collections.abc import Collection, Iterable

__all__ = ["renamed"]

_WRAPPERS = frozenset({"module", "_orig_mod"})
"""Parts that DataParallel, AveragedModel and torch.compile insert, at the front or around a submodule."""
_PREFIXES = ("model.", "net.", "network.", "encoder.", "student.")
"""Where a LightningModule or a framework keeps the network, a loss with tensors of its own may lie beside it."""
_BOOKKEEPING = frozenset({"n_averaged", "total_ops", "total_params"})
"""Counters of AveragedModel and of the thop profiler."""

_Names = dict[str, tuple[str, ...]]
"""Names in the checkpoint by what they were made."""


def renamed(given: Iterable[str], expected: Collection[str]) -> _Names:
    """Names in the checkpoint by the names the model knows them under; unknown ones keep their own.

    One prefix is taken off the whole checkpoint at a time, as long as that fits more names to the model. Several names
    may become one.
    """
    kept = (name for name in given if not _is_bookkeeping(name, expected))
    names = _joined((_unwrapped(name, expected), (name,)) for name in kept)
    while names:
        fitting = len(names.keys() & expected)
        shorter = [_without(prefix, names, expected) for prefix in _PREFIXES]
        best = max(shorter, key=lambda other: len(other.keys() & expected))
        if len(best.keys() & expected) > fitting:
            names = best
            continue
        common = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in names)), None)
        if fitting or common is None:
            break
        names = _without(common, names, expected)
    return names


def _without(prefix: str, names: _Names, expected: Collection[str]) -> _Names:
    return _joined((_unwrapped(name.removeprefix(prefix), expected), originals) for name, originals in names.items())


def _joined(pairs: Iterable[tuple[str, tuple[str, ...]]]) -> _Names:
    names: _Names = {}
    for name, originals in pairs:
        names[name] = (*names.get(name, ()), *originals)
    return names


def _unwrapped(name: str, expected: Collection[str]) -> str:
    parts = name.split(".")
    shorter = (".".join(part for part in parts if part not in drop) for drop in ({"_orig_mod"}, _WRAPPERS))
    candidates = (name, *shorter)
    return next((candidate for candidate in candidates if candidate in expected), candidates[-1])


def _is_bookkeeping(name: str, expected: Collection[str]) -> bool:
    return name.rpartition(".")[2] in _BOOKKEEPING and name not in expected
