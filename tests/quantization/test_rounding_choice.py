"""Which rounding is kept: the one that validation images prefer."""

from __future__ import annotations

import pytest
from torch import fx, nn

from compress.core.budget import Verdict
from compress.quantization.ladder import Made
from compress.quantization.rounding_choice import better_rounding


def made():
    return Made(fx.symbolic_trace(nn.Identity()), settings=None)


def verdict(decibels, agreement):
    return Verdict(200, 150, 0, 0, agreement, decibels)


@pytest.mark.parametrize(
    ("ours", "kept"),
    [
        (verdict(31.0, 0.99), "adaptive"),
        (verdict(30.0, 0.98), "adaptive"),  # neither better nor worse
        (verdict(29.9, 1.0), "nearest"),
        (verdict(32.0, 0.973), "nearest"),  # closer logits, other answers
    ],
)
def test_adaptive_rounding_has_to_be_no_worse_in_noise_and_in_agreement(ours, kept):
    adaptive, nearest = made(), made()
    verdicts = {adaptive.graph: ours, nearest.graph: verdict(30.0, 0.98)}
    chosen, text = better_rounding(adaptive, nearest, verdicts.__getitem__, "validation")
    assert chosen is (adaptive if kept == "adaptive" else nearest)
    assert text.startswith(f"{kept} rounding is kept: adaptive {ours.sqnr_db:.1f} dB")
    assert "nearest 30.0 dB and 98.0% agreement on 200 validation images" in text
