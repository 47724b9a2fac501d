"""The cyclic collector rests while a graph is built, and only then."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.graph import capture as graphs
from compress.quantization.ptq import float_graph
from compress.support.garbage import collector_paused


def test_it_rests_inside_and_works_afterwards():
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_works_again_after_an_error():
    with pytest.raises(KeyError), collector_paused():
        raise KeyError
    assert gc.isenabled()


def test_who_switched_it_off_keeps_it_off():
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_rests_while_a_network_is_captured(monkeypatch):
    seen = []
    capture = torch.export.export

    def export(*args, **kwargs):
        seen.append(gc.isenabled())
        return capture(*args, **kwargs)

    monkeypatch.setattr(graphs.torch.export, "export", export)
    float_graph(nn.Conv2d(3, 4, 3).eval(), InputSpec((3, 8, 8)))
    assert seen == [False]
    assert gc.isenabled()
