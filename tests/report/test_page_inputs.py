"""Scans and profiles that stages left in a run folder, whole and damaged."""

from __future__ import annotations

import json
import math

import pytest
from page_rows import profile

from compress.core.errors import ConfigError
from compress.profile.document import find_profile
from compress.report.html.layer_plots import prune_plot, quantize_plot
from compress.report.html.plot import svg
from compress.report.html.roofline_plot import roofline_plot
from compress.report.html.scans import read_scans
from compress.report.html.time_plot import time_plot

QUANTIZE = "layer,sqnr_db,top1_changed,weight_bytes,macs\nstem,inf,0,576,36864\nhead,21.5,0.25,10,20\n"
PRUNE = "layer,size,share,top1,loss\nstem,144,0,0.99,0.1\nstem,144,0.5,0.92,0.2\nhead,9,0,0.99,0.1\nhead,9,0.5,0.5,2\n"


def test_both_scans_are_read_by_what_they_hold(tmp_path):
    (tmp_path / "a.csv").write_text(QUANTIZE)
    (tmp_path / "b.csv").write_text(PRUNE)
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    first, second = read_scans(tmp_path)
    assert (first.stage, second.stage) == ("a", "b")
    assert first.quantize[0].sqnr_db == math.inf
    assert second.prune[1].changes == pytest.approx((-49.0,))
    drawn = svg(quantize_plot("a", first.quantize))
    assert drawn.index(">head<") < drawn.index(">stem<")
    assert ">exact<" in drawn
    assert ">−49.0<" in svg(prune_plot("b", second.prune))


@pytest.mark.parametrize(
    "text",
    [QUANTIZE + "late", QUANTIZE.replace("21.5", "x"), PRUNE + "tail,9,0,0.9,1\n"],
    ids=["cut", "word", "uneven"],
)
def test_a_damaged_scan_is_named(tmp_path, text):
    (tmp_path / "scan.csv").write_text(text)
    with pytest.raises(ConfigError, match=r"scan\.csv is not a whole scan: .* \| fix: delete it"):
        read_scans(tmp_path)


def test_a_profile_is_read_and_drawn(tmp_path):
    assert find_profile(tmp_path) is None
    (tmp_path / "profile.json").write_text(json.dumps(profile(8)))
    found = find_profile(tmp_path)
    assert len(found.layers) == 8
    plot = roofline_plot(found)
    assert "7 layers: 2 compute bound, 2 bandwidth bound, 2 launch bound, 1 transfer bound" in plot.alt
    assert ">GFLOP/s reached<" in svg(plot)
    slowest = time_plot(found)
    assert slowest.alt.index("features.0.block.7.conv 0.017 ms (transfer)") < slowest.alt.index(
        "features.0.block.6.conv"
    )
    assert ">0.017, 12.5 %<" in svg(slowest)


def test_a_profile_without_arithmetic_has_no_roofline(tmp_path):
    layers = [{**layer, "intensity": None} for layer in profile(3)["layers"]]
    (tmp_path / "profile.json").write_text(json.dumps(profile(3, layers=layers)))
    assert roofline_plot(find_profile(tmp_path)) is None


def test_a_profile_without_layers_has_no_plots(tmp_path):
    (tmp_path / "profile.json").write_text(json.dumps(profile(1, layers=[])))
    found = find_profile(tmp_path)
    assert roofline_plot(found) is None
    assert time_plot(found) is None


@pytest.mark.parametrize(("content", "message"), [("{", "not a valid Profile"), ("[]", "not a valid Profile")])
def test_a_damaged_profile_is_named(tmp_path, content, message):
    (tmp_path / "profile.json").write_text(content)
    with pytest.raises(ConfigError, match=f"profile.json is not a profile: {message}"):
        find_profile(tmp_path)


def test_a_profile_of_another_schema_is_refused(tmp_path):
    (tmp_path / "profile.json").write_text(json.dumps(profile(1, schema=2)))
    with pytest.raises(ConfigError, match=r"has schema 2, this program reads 1"):
        find_profile(tmp_path)
