"""The page in a real browser: quiet, fast, every plot drawn, in both modes, on a desk and on a phone."""

from __future__ import annotations

import statistics

import pytest
from chromium import Browser
from page_rows import large_report, write_run

from compress.report.html.compare_page import compare_page
from compress.report.html.render import render
from compress.report.html.run_page import read_run, run_page

BOXES = """[...document.querySelectorAll('svg.plot')].map(plot => {
    const box = plot.getBoundingClientRect(), parts = plot.querySelectorAll('path, use');
    const drawn = [...parts].map(part => part.getBoundingClientRect()).filter(part => part.width + part.height > 0);
    const texts = [...plot.querySelectorAll('text')];
    const outside = texts.filter(text => {
        const at = text.getBoundingClientRect();
        return at.left < box.left - 3 || at.right > box.right + 3 || at.top < box.top - 3 || at.bottom > box.bottom + 3;
    });
    return {name: plot.getAttribute('aria-labelledby'), width: box.width, height: box.height, drawn: drawn.length,
            texts: texts.length, outside: outside.map(text => text.textContent)};
})"""


@pytest.fixture(scope="module")
def browser():
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("large"))
    report = large_report()
    run = folder / "report.html"
    run.write_bytes(render(run_page(read_run(report, folder))))
    several = folder / "several.html"
    several.write_bytes(render(compare_page([report, report], [("target=x", "an error")])))
    return {"run": run, "several": several}


@pytest.mark.parametrize("which", ["run", "several"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)], ids=["desk", "phone-dark"])
def test_quiet_self_contained_and_drawn(browser, pages, which, width, dark):
    browser.open(pages[which], width=width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.complaints == []
    assert browser.requests == [pages[which].as_uri()]
    plots = browser.evaluate(BOXES)
    assert len(plots) == {"run": 27, "several": 5}[which]
    for plot in plots:
        assert plot["width"] > 200, plot
        assert plot["height"] > 60, plot
        assert plot["drawn"] >= 2, plot
        assert plot["texts"] > 2, plot
        assert plot["outside"] == [], plot
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def test_the_page_follows_the_readers_mode(browser, pages):
    ask = (
        "[getComputedStyle(document.documentElement).backgroundColor, "
        "getComputedStyle(document.querySelector('svg.plot text')).fill]"
    )
    browser.open(pages["run"], dark=False)
    light = browser.evaluate(ask)
    browser.open(pages["run"], dark=True)
    dark = browser.evaluate(ask)
    assert light[0] == "rgb(246, 247, 249)"
    assert dark[0] == "rgb(14, 17, 22)"
    assert light[1] != dark[1]


def test_opens_in_under_2_seconds(browser, pages):
    times = [browser.open(pages["run"]) for _ in range(3)]
    assert statistics.median(times) < 2000, times


def test_everything_is_within_reach_of_the_keyboard(browser, pages):
    browser.open(pages["run"])
    reach = "[...document.querySelectorAll('a, summary, .scroll, pre')].every(part => part.tabIndex === 0)"
    assert browser.evaluate(reach)
    assert browser.evaluate("document.querySelector('details').open") is False
    browser.evaluate("document.querySelector('summary').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
        )
    assert browser.evaluate("document.querySelector('details').open") is True
