"""The page about a run: complete, accessible, self-contained, and safe whatever things are called."""

from __future__ import annotations

import itertools
import re
from dataclasses import asdict, replace

import pytest
from html_outline import Outline
from page_rows import large_report, range_of, write_run
from report_rows import run_report, run_rows

from compress.core.measurement import Sparsity
from compress.report.html.compare_page import compare_page
from compress.report.html.palette import DARK, LIGHT, css_variables
from compress.report.html.plot import svg
from compress.report.html.render import render
from compress.report.html.run_page import RunData, read_run, run_page

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>&|$\\frac{a}$\u202e\x07]]>"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    report = large_report()
    folder = write_run(tmp_path_factory.mktemp("run"), report)
    return run_page(read_run(report, folder))


@pytest.fixture(scope="module")
def html(large):
    return render(large)


@pytest.fixture(scope="module")
def outline(html):
    return Outline(html)


def test_200_layers_fit_3_mb(html):
    assert 100_000 < len(html) <= 3_000_000


def test_every_section_is_there_and_reachable(outline):
    sections = [section["id"] for section in outline.named("section")]
    assert sections == ["stages", "figures", "device", "profile", "layers", "ranges", "drift", "notes", "reproduce"]
    links = [link["href"] for link in outline.named("a")]
    assert links == ["#content", *(f"#{section}" for section in sections)]


def test_every_plot_has_a_name_and_a_description(outline, large):
    plots = [attributes for attributes in outline.named("svg") if attributes["class"] == "plot"]
    assert len(plots) == len(large.plots) == 3 + 2 + 3 + 18 + 1
    identifiers = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers)), "an identifier is there twice"
    for plot in plots:
        assert plot["role"] == "img"
        assert set(plot["aria-labelledby"].split()) <= set(identifiers)
    assert all(len(plot.alt) > 40 for plot in large.plots)
    references = {
        part
        for _, attributes in outline.tags
        for value in attributes.values()
        if value
        for part in re.findall(r"url\(#([^)]+)\)", value)
    }
    assert references <= set(identifiers)


def test_language_viewport_headings_and_tables(outline):
    assert outline.named("html")[0]["lang"] == "en"
    assert any(
        meta.get("name") == "viewport" and "width=device-width" in meta["content"] for meta in outline.named("meta")
    )
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert {attributes.get("scope") for attributes in outline.named("th")} == {"col", "row"}
    assert len(outline.named("caption")) == len(outline.named("table")) > 8
    scrolled = [attributes for attributes in outline.named("div") if attributes.get("class") == "scroll"]
    assert all(area["tabindex"] == "0" and area["aria-label"] for area in scrolled)


def test_nothing_is_fetched_and_nothing_is_run(html, outline):
    (policy,) = (meta["content"] for meta in outline.named("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert not outline.named("script") + outline.named("link") + outline.named("img") + outline.named("iframe")
    for _, attributes in outline.tags:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in ("src", "href", "action", "data", "xlink:href"):
                assert value.startswith("#"), (key, value)
    assert b"http:" not in html.replace(b"http-equiv", b"")
    assert b"https:" not in html
    assert not re.search(rb"url\((?!#)", html)
    assert b"@import" not in html


def test_numbers_on_axes_are_plain(html):
    assert b"mathdefault" not in html


def test_latencies_far_apart_are_told_apart_on_a_logarithmic_axis():
    rows = run_rows()
    near = next(plot for plot in run_page(RunData(run_report(rows[:2]))).plots if plot.name == "latency")
    far = next(plot for plot in run_page(RunData(run_report(rows))).plots if plot.name == "latency")
    assert "logarithmic" not in svg(near)
    assert "logarithmic" in svg(far)
    assert ">9.00 emulated<" in svg(far)


def test_colours_follow_the_reader(html):
    body = html.split(b"</style>", 1)[1]
    assert not re.findall(rb"#[0-9a-fA-F]{6}\b", body), "a plot has a colour of its own"
    assert b"prefers-color-scheme:dark" in html


def luminance(colour):
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def mixed(colour, below, alpha):
    pairs = ((int(colour[p : p + 2], 16), int(below[p : p + 2], 16)) for p in (1, 3, 5))
    return "#" + "".join(f"{round(alpha * top + (1 - alpha) * bottom):02x}" for top, bottom in pairs)


@pytest.mark.parametrize(("palette", "mode"), [(LIGHT, 0), (DARK, 1)], ids=["light", "dark"])
def test_contrast_in_both_modes(palette, mode):
    defined = [
        dict(re.findall(r"--(\w+):(#\w{6})", block)) for block in re.findall(r":root\{([^}]+)\}", css_variables())
    ]
    assert defined[mode] == asdict(palette)
    for role in ("ink", "muted", "blue", "teal", "amber", "red", "violet"):
        for background in (palette.page, palette.surface):
            assert contrast(getattr(palette, role), background) >= 4.5, (role, background)
    strongest = mixed(palette.red, palette.surface, 0.45)
    assert contrast(palette.ink, strongest) >= 4.5, "text on a heat map"


def test_numbers_reasons_and_marks(outline):
    words = outline.words
    for text in ("322.3 KiB", "0.80", "92.4 %", "emulated", "built on the device", "not on the device", "12.3 (12.9)"):
        assert text in words
    for text in ("identical", "outputs differ", "estimate 1.10 ms", "compute: fewer MACs", "1.70", "quantize it"):
        assert text in words
    assert "python -m compress target=raspberry_pi_4 'stage.magnitude.exclude=[fc]'" in words


def test_names_from_strangers_stay_text():
    rows = [replace(row, stage=f"{row.stage}{HOSTILE}", notes={HOSTILE: HOSTILE}) for row in run_rows()]
    rows[-1] = replace(rows[-1], sparsity=Sparsity(1, 2, {HOSTILE: 0.5}), runtime=HOSTILE)
    report = run_report(
        tuple(rows),
        target=HOSTILE,
        target_title=HOSTILE,
        overrides=(HOSTILE,),
        config={HOSTILE: HOSTILE},
        ranges=(replace(range_of(1, "weight"), name=HOSTILE),),
    )
    for page in (run_page(RunData(report)), compare_page([report, report], [(HOSTILE, HOSTILE)])):
        html = render(page)
        outline = Outline(html)
        assert not outline.named("script")
        assert not outline.named("img")
        assert not [key for _, attributes in outline.tags for key in attributes if key.startswith("on")]
        assert "<script>alert(1)</script>" in outline.words


def test_a_bare_run_has_only_what_it_knows():
    bare = replace(
        run_rows()[0], size_bytes=None, size_gzip_bytes=None, latency=None, accuracy=None, fidelity=None, sparsity=None
    )
    html = render(run_page(RunData(run_report((bare,)))))
    outline = Outline(html)
    assert [section["id"] for section in outline.named("section")] == ["stages", "figures", "reproduce"]
    assert "not measured" in outline.words


def test_the_same_run_is_the_same_file():
    page = run_page(RunData(run_report()))
    assert render(page) == render(page)


def test_comparison_shows_runs_fronts_failures_and_differences():
    reports = [
        run_report(config={"stage": {"prune": {"amount": amount}}}, overrides=("target=raspberry_pi_4", f"a={amount}"))
        for amount in (0.3, 0.5)
    ]
    page = compare_page(reports, [("target=jetson_nano precision=int8", "no INT8 there")])
    fronts = ["pareto-size", "pareto-gzip", "pareto-latency"]
    assert [plot.name for plot in page.plots] == [*fronts, "size", "latency", "accuracy"]
    words = Outline(render(page)).words
    for text in ("2 runs compared", "1 failed", "no INT8 there", "stage.prune.amount", "Run 1: a=0.3", "Run 2: a=0.5"):
        assert text in words
