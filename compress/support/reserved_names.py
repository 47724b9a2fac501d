"""Layers may be called `class`, `import` or `None`: what PyTorch allows and Python reserves.

torch.fx writes Python code for its graphs. Names that are no identifiers it puts in quotes there; those that Python
keeps for itself it writes as they stand, and its own code is a syntax error then.
"""

from __future__ import annotations

import keyword

from torch.fx import graph as fx_graph

__all__ = ["quote_reserved_names"]

_WRITER = "_format_target"
"""What writes `self.layer1.conv` in torch 2.14 (`torch/fx/graph.py`); looked up anew for every name."""


def quote_reserved_names() -> None:
    """Let torch.fx put them in quotes, too; from now on, in this process."""
    if hasattr(fx_graph, _WRITER):
        setattr(fx_graph, _WRITER, _quoted)


def _quoted(base: str, target: str) -> str:
    """Code that reads the dotted `target` of `base`: `getattr(self.parts, "class").weight`."""
    code = base
    for part in target.split("."):
        plain = part.isidentifier() and not keyword.iskeyword(part)
        code = f"{code}.{part}" if plain else f"getattr({code}, {part!r})"
    return code
