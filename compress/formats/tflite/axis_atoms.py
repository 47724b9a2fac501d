"""A chain of reshapes and transpositions as one permutation of factors of the axes.

`view(N, g, C/g, H, W)`, `transpose(1, 2)`, `view(N, C, H, W)` on a channels-last tensor are five operators; on the
factors `(H W), g, C/g` of its axes they are one exchange, `(H W), C/g, g`. Whatever the chain, the shortest form is:
nothing, one reshape, one transposition with at most a reshape on one side, or a reshape, a transposition and a
reshape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Reshape", "Step", "Transpose", "shortest"]

_LARGEST_RANK = 4
"""TRANSPOSE up to version 2 moves four axes (TensorFlow 2.14, lite/tools/versioning/op_version.cc)."""


@dataclass(frozen=True)
class Reshape:
    """The same numbers in the same order as `shape`."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Transpose:
    """Output axis `i` is input axis `order[i]`."""

    order: tuple[int, ...]


Step = Reshape | Transpose


@dataclass
class _Atoms:
    """Factors of a tensor's axes that no step takes apart; those of size one do not count.

    Attributes:
        sizes: by the factor's number.
        source: factors in the order they have in memory before all steps.
        axes: factors of every axis after the steps so far.
    """

    sizes: dict[int, int] = field(default_factory=dict)
    source: list[int] = field(default_factory=list)
    axes: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, shape: Sequence[int]) -> _Atoms:
        atoms = cls()
        atoms.axes = [[] if size == 1 else [axis] for axis, size in enumerate(shape)]
        atoms.sizes = {axis: size for axis, size in enumerate(shape) if size != 1}
        atoms.source = [*atoms.sizes]
        return atoms

    @property
    def result(self) -> list[int]:
        """Factors in the order they have in memory after the steps so far."""
        return [atom for axis in self.axes for atom in axis]

    def apply(self, step: Step) -> bool:
        """Take one more step; False where sizes have no common factors (6 = 2 x 3 as 3 x 2)."""
        if isinstance(step, Transpose):
            self.axes = [self.axes[axis] for axis in step.order]
            return True
        left = self.result
        axes: list[list[int]] = []
        for size in step.shape:
            axis = self._taken(left, size)
            if axis is None:
                return False
            axes.append(axis)
        self.axes = axes
        return not left

    def _taken(self, remaining: list[int], size: int) -> list[int] | None:
        """The first factors of `remaining` that make up an axis of `size`; the last of them may be taken apart."""
        factors: list[int] = []
        while size > 1:
            if not remaining:
                return None
            atom = remaining.pop(0)
            if self.sizes[atom] > size and self.sizes[atom] % size == 0:
                remaining.insert(0, self._split(atom, size))
            if size % self.sizes[atom]:
                return None
            factors.append(atom)
            size //= self.sizes[atom]
        return factors

    def _split(self, atom: int, size: int) -> int:
        """Make `atom` one of `size`, followed by a new one, which is returned."""
        new = max(self.sizes) + 1
        self.sizes[new], self.sizes[atom] = self.sizes[atom] // size, size
        self.source.insert(self.source.index(atom) + 1, new)
        return new


def shortest(shape: Sequence[int], steps: Sequence[Step]) -> list[Step] | None:
    """The fewest steps that do to a tensor of `shape` what `steps` do; None if there are none of rank four or less."""
    atoms = _Atoms.of(shape)
    final = tuple(shape)
    for step in steps:
        if not atoms.apply(step):
            return None
        final = step.shape if isinstance(step, Reshape) else tuple(final[axis] for axis in step.order)
    if atoms.source == atoms.result:
        return [] if final == tuple(shape) else [Reshape(final)]
    forms = (_from_source(atoms, tuple(shape), final), _from_result(atoms, tuple(shape), final))
    known = [form for form in (*forms, _merged(atoms, tuple(shape), final)) if form is not None]
    small = [form for form in known if _rank(form) <= _LARGEST_RANK]
    return min(small, key=len) if small else None


def _rank(form: Sequence[Step]) -> int:
    return max(len(step.order) for step in form if isinstance(step, Transpose))


def _from_source(atoms: _Atoms, shape: tuple[int, ...], final: tuple[int, ...]) -> list[Step] | None:
    """Transpose the axes as they are, then reshape."""
    axes = _grouped(atoms.source, atoms.sizes, shape)
    inner = _order_of(axes, atoms.result)
    if inner is None:
        return None
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    order = _with_ones(inner, ones, shape, final)
    moved = tuple(shape[axis] for axis in order)
    return [Transpose(tuple(order)), *([] if moved == final else [Reshape(final)])]


def _from_result(atoms: _Atoms, shape: tuple[int, ...], final: tuple[int, ...]) -> list[Step] | None:
    """Reshape so that one transposition gives the result's axes."""
    inner = _order_of(_grouped(atoms.result, atoms.sizes, final), atoms.source)
    if inner is None:
        return None
    before = [axis for axis, size in enumerate(final) if size == 1] + inner
    split = tuple(final[axis] for axis in before)
    order = tuple(before.index(axis) for axis in range(len(final)))
    return [*([] if split == shape else [Reshape(split)]), Transpose(order)]


def _merged(atoms: _Atoms, shape: tuple[int, ...], final: tuple[int, ...]) -> list[Step]:
    """Reshape to what moves together, transpose, reshape."""
    follows = dict(zip(atoms.source, atoms.source[1:], strict=False))
    groups: list[list[int]] = []
    for atom in atoms.result:
        if groups and follows.get(groups[-1][-1]) == atom:
            groups[-1].append(atom)
        else:
            groups.append([atom])
    before = sorted(range(len(groups)), key=lambda index: atoms.source.index(groups[index][0]))
    sizes = [math.prod(atoms.sizes[atom] for atom in group) for group in groups]
    split, order = [sizes[index] for index in before], [before.index(index) for index in range(len(groups))]
    if len(order) < _LARGEST_RANK:  # a batch in front, as everywhere
        split, order = [1, *split], [0, *(axis + 1 for axis in order)]
    moved = tuple(split[axis] for axis in order)
    steps: list[Step] = [] if tuple(split) == shape else [Reshape(tuple(split))]
    return [*steps, Transpose(tuple(order)), *([] if moved == final else [Reshape(final)])]


def _grouped(atoms: Sequence[int], sizes: dict[int, int], shape: tuple[int, ...]) -> dict[int, list[int]]:
    """The factors of every axis of `shape` above one, `atoms` being all of them in order."""
    remaining = [*atoms]
    axes: dict[int, list[int]] = {}
    for axis, size in enumerate(shape):
        factors: list[int] = []
        while math.prod(sizes[atom] for atom in factors) < size:
            factors.append(remaining.pop(0))
        if factors:
            axes[axis] = factors
    return axes


def _order_of(axes: dict[int, list[int]], atoms: Sequence[int]) -> list[int] | None:
    """The order of whole axes that gives `atoms`; None where one is taken apart."""
    first = {factors[0]: axis for axis, factors in axes.items()}
    order: list[int] = []
    position = 0
    while position < len(atoms):
        axis = first.get(atoms[position])
        if axis is None or [*atoms[position : position + len(axes[axis])]] != axes[axis]:
            return None
        order.append(axis)
        position += len(axes[axis])
    return order


def _with_ones(inner: list[int], ones: list[int], shape: tuple[int, ...], final: tuple[int, ...]) -> list[int]:
    """`inner` with the axes of size one where `final` has them, as far as it has; the others come first."""
    left, spare = [*inner], [*ones]
    order: list[int] = []
    for size in final:
        if size == 1 and spare:
            order.append(spare.pop(0))
        while left and size > 1:
            size //= shape[left[0]]
            order.append(left.pop(0))
    return [*spare, *order, *left]
