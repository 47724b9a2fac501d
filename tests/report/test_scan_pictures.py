"""A scan is drawn once: the picture beside its table is the plot of the page, with more layers."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from page_rows import layer, write_run
from report_rows import run_report

from compress.report.html.layer_plots import MOST_ROWS, scan_plot
from compress.report.html.scans import PruneCurve, QuantizeRow, Scan
from compress.report.pages import Reports, refresh, run_pages


def test_each_scan_of_a_run_has_a_picture_with_every_layer(tmp_path):
    pages = run_pages(run_report(), write_run(tmp_path, run_report(), layers=MOST_ROWS + 5))
    assert sorted(pages) == ["pscan.svg", "report.html", "report.md", "scan.svg"]
    for name in ("pscan.svg", "scan.svg"):
        root = ElementTree.fromstring(pages[name])
        texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
        assert {layer(number) for number in range(MOST_ROWS + 5)} <= texts
        assert root.find("{http://www.w3.org/2000/svg}title").text
        assert b"prefers-color-scheme" in pages[name]


def test_a_page_that_is_made_again_draws_them_again(tmp_path):
    folder = write_run(tmp_path, run_report(), layers=3)
    (folder / "scan.svg").write_text("of an earlier release")
    refresh(folder, Reports(((folder, run_report()),)))
    assert ElementTree.fromstring((folder / "scan.svg").read_text()).get("role") == "img"


def test_the_plot_is_that_of_the_scans_kind_and_most_layers_are_counted():
    rows = tuple(QuantizeRow(f"layer<{number}>", 20.0 + number, 0.0, 1, 1) for number in range(5))
    exact = QuantizeRow("head", math.inf, 0.0, 1, 1)
    quantized = scan_plot(Scan("scan", quantize=(exact, *rows)), 3)
    assert quantized.title == "Sensitivity to INT8: the 3 most sensitive of 6 layers"
    assert "layer<0> 20.0 dB" in quantized.alt
    pruned = scan_plot(Scan("scan", prune=(PruneCurve("a", (0.3,), (-1.0,)), PruneCurve("b", (0.3,), (-2.0,)))))
    assert pruned.title == "Sensitivity to pruning, points of top-1"
    assert pruned.alt.index("b -2.0") < pruned.alt.index("a -1.0")
