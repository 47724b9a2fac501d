"""Odd state dicts: tensors that are none, structures that never end, names that are no text."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

__all__ = ["network", "odd_state", "sound_state"]

_Tensor = torch.Tensor


def network() -> nn.Sequential:
    """Eight tensors and a counter; half a thousand values."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).eval()


def sound_state() -> dict[str, _Tensor]:
    """Its state dict."""
    return dict(network().state_dict())


_TENSORS: dict[str, Callable[[_Tensor], object]] = {
    "NaN": lambda t: torch.full_like(t, float("nan")),
    "infinite": lambda t: torch.full_like(t, float("inf")),
    "negative": lambda t: -t.abs() - 1,
    "huge": lambda t: torch.full_like(t, 3e38),
    "quantized": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "quantized by channel": lambda t: torch.quantize_per_channel(
        t, torch.full((len(t),), 0.1), torch.zeros(len(t)), 0, torch.quint8
    ),
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "compressed": lambda t: t.flatten(1).to_sparse_csr() if t.dim() > 1 else t.to_sparse(),
    "complex": lambda t: t.to(torch.complex64),
    "conjugate": lambda t: torch.conj(t.to(torch.complex64)),
    "negated": lambda t: torch.conj(t.to(torch.complex64)).imag,
    "boolean": lambda t: t > 0,
    "bytes": lambda t: t.to(torch.uint8),
    "wide": lambda t: t.double() * 1e300,
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "uint16": lambda t: t.abs().to(torch.uint16),
    "empty": lambda t: t[:0],
    "scalar": lambda t: t.flatten()[0],
    "spread": lambda t: t.flatten()[:1].expand(t.shape),
    "spread far": lambda t: t.flatten()[:1].expand(1 << 40),
    "overlapping": lambda t: torch.as_strided(t, t.shape, (1,) * t.dim()),
    "shared": lambda t: t.view(-1)[: t.numel()].view(t.shape),
    "transposed": lambda t: t.t() if t.dim() == 2 else t.transpose(0, -1),
    "many dimensions": lambda t: t.reshape(*t.shape, *(1,) * 60),
    "nested": lambda t: torch.nested.nested_tensor([t.flatten(), t.flatten()[:1]]),
    "parameter": lambda t: nn.Parameter(t),
    "storage": lambda t: t.untyped_storage(),
    "numpy": lambda t: t.numpy(),
    "number": lambda t: 1.0,
    "nothing": lambda t: None,
    "list": lambda t: t.tolist(),
}
"""What may stand in the place of a tensor."""


def _cycle(state: dict[str, object]) -> object:
    state["state_dict"] = state
    return {"state_dict": {"epoch": 1, "model": state}, "net": state} if len(state) % 2 else {"ema": state}


def _endless() -> object:
    around: dict[str, object] = {}
    around["state_dict"] = {"model": {"net": around}}
    return around


def _cyclic_list() -> list[object]:
    items: list[object] = []
    items.append(items)
    return items


def _with(state: Mapping[str, object], more: Mapping[object, object]) -> dict[object, object]:
    return {**dict(state.items()), **more}


def _deep(state: object, levels: int, name: str) -> object:
    for _ in range(levels):
        state = {name: state} if name else [state]
    return state


def _doubled(state: Mapping[str, object], prefix: str, change: float) -> dict[str, object]:
    """Every tensor twice, under its own name and under one that is the same without its wrapper."""
    twice = {
        f"{prefix}{name}": value + change if isinstance(value, _Tensor) and value.is_floating_point() else value
        for name, value in state.items()
    }
    return {**state, **twice}


_STRUCTURES: dict[str, Callable[[dict[str, object], random.Random], object]] = {
    "as it is": lambda s, r: s,
    "wrapped": lambda s, r: {r.choice(("state_dict", "model", "ema", "net", "weights")): s, "epoch": 3},
    "cycle": lambda s, r: _cycle(s),
    "endless": lambda s, r: _endless(),
    "cyclic list": lambda s, r: {**s, "x": _cyclic_list()},
    "deep": lambda s, r: _deep(s, r.choice((3, 90, 150)), r.choice(("state_dict", "model", "x", ""))),
    "list": lambda s, r: list(s.items()),
    "tensor": lambda s, r: next(iter(s.values())),
    "number": lambda s, r: r.choice((1, None, "a", b"a", (), [], {}, True, 1.5)),
    "set": lambda s, r: {**s, "x": {1, 2}},
    "number keys": lambda s, r: _with(s, {1: torch.zeros(1), "1": torch.ones(1)}),
    "odd keys": lambda s, r: _with(s, {r.choice((None, b"\xff", (1, "a"), 1.5, True)): torch.zeros(1)}),
    "only numbers": lambda s, r: dict(enumerate(s.values())),
    "byte keys": lambda s, r: {name.encode(): value for name, value in s.items()},
    "surrogate": lambda s, r: {**s, "a\ud800": torch.zeros(1)},
    "control": lambda s, r: {**s, "a\nb\x1b[2J": torch.zeros(1)},
    "long key": lambda s, r: {**s, "a" * 1_000_000: torch.zeros(1)},
    "dots": lambda s, r: {**s, r.choice(("", ".", "..", "a..b", "0.", ".0.weight")): torch.zeros(1)},
    "wrapper keys": lambda s, r: {f"module.module._orig_mod.{name}": value for name, value in s.items()},
    "doubled": lambda s, r: _doubled(s, r.choice(("module.", "_orig_mod.", "model.")), r.choice((0.0, 1.0))),
    "ordered": lambda s, r: OrderedDict(s),
    "nothing": lambda s, r: OrderedDict(),
    "no tensors": lambda s, r: {"state_dict": {"a": 1}, "ema": None, "model": "x"},
    "wrappers of nothing": lambda s, r: {"state_dict": None, "model": [], "net": {"weights": {}}, **s},
    "many keys": lambda s, r: {**s, **{f"x{n}": torch.zeros(1) for n in range(3000)}},
    "numpy": lambda s, r: {"state_dict": s, "best": np.float64(0.5), "curve": np.arange(3), "name": np.str_("a")},
    "dtype": lambda s, r: {**s, "x": r.choice((torch.float16, torch.device("cpu"), torch.Size([1])))},
    "storages": lambda s, r: {"state_dict": s, "storage": torch.zeros(3).untyped_storage()},
    "missing": lambda s, r: dict(list(s.items())[r.randrange(len(s)) :]),
}
"""What may lie around the tensors."""


def odd_state(rng: random.Random) -> tuple[str, object]:
    """The name of a kind, and what is saved."""
    state: dict[str, object] = dict(sound_state())
    kind = "sound"
    if rng.random() < 0.6:
        name, kind = rng.choice(sorted(state)), rng.choice(sorted(_TENSORS))
        try:
            state[name] = _TENSORS[kind](sound_state()[name])
        except (RuntimeError, TypeError, ValueError, IndexError):
            kind = f"no {kind}"
    structure = "as it is" if rng.random() < 0.4 else rng.choice(sorted(_STRUCTURES))
    return f"{kind}, {structure}", _STRUCTURES[structure](state, rng)
