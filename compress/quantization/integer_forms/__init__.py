"""Layers that an integer runtime has no kernel for, written exactly with operators that it has.

Done on the captured float graph, before placement: every intermediate tensor gets a range of its own, and the INT8
reference is computed with the same operators as the file. A policy names the forms that its runtime needs
(`expands`); no other runtime's graph is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import fx

from compress.quantization.integer_forms.activations import (
    expand_absolutes,
    expand_elus,
    expand_gelus,
    expand_mishes,
    expand_scaled_elus,
    expand_softpluses,
)
from compress.quantization.integer_forms.affine import fold_affine
from compress.quantization.integer_forms.groups import split_groups
from compress.quantization.integer_forms.powers import expand_powers
from compress.quantization.norm_as_conv import normalizations_as_convs
from compress.quantization.policy import IntegerForm

__all__ = ["expand"]

_FORMS: dict[IntegerForm, Callable[[fx.GraphModule], int]] = {
    IntegerForm.NORMALIZATION: normalizations_as_convs,
    IntegerForm.AFFINE: fold_affine,
    IntegerForm.POWER: expand_powers,
    IntegerForm.GROUPS: split_groups,
    IntegerForm.SCALED_ELU: expand_scaled_elus,
    IntegerForm.ELU: expand_elus,
    IntegerForm.MISH: expand_mishes,
    IntegerForm.SOFTPLUS: expand_softpluses,
    IntegerForm.GELU: expand_gelus,
    IntegerForm.ABS: expand_absolutes,
}
"""In this order: softplus is written with an absolute value."""


def expand(graph: fx.GraphModule, forms: Iterable[IntegerForm]) -> int:
    """Rewrite `graph` in place; how many layers were rewritten."""
    wanted = frozenset(forms)
    count = sum(rewrite(graph) for form, rewrite in _FORMS.items() if form in wanted)
    if count:
        graph.graph.eliminate_dead_code()
        graph.graph.lint()
        graph.recompile()
    return count
