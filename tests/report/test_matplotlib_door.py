"""Plots are the same whatever matplotlib's user has set, and wherever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from doubles import ROOT

DRAW = """
import sys
from pathlib import Path
import compress.report.html.plot as plot
def draw(figure, palette):
    figure.subplots().plot([1, 2, 3], label="name_$x")
made = plot.Plot("name", "title", "alt", draw, 100)
here = Path.cwd()
sys.stdout.buffer.write(plot.svg_file(made) + plot.png(made))
assert Path.cwd() == here
import matplotlib
assert matplotlib.rcParams["lines.linewidth"] != 9, "the user's file was read"
"""

BROKEN = {
    "usetex": b"text.usetex: True\n",
    "others": b"lines.linewidth: 9\nsavefig.dpi: 3\nsvg.fonttype: path\nsavefig.format: pdf\naxes.linewidth: 7\n",
    "unknown": b"nonsense: 3\naxes.prop_cycle: foo\n",
    "undecodable": b"text.usetex: True\xff\n",
}


def drawn(folder: Path, **variables: str) -> bytes:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MPL")}
    environment = {**kept, "PYTHONPATH": str(ROOT), "HOME": str(folder), **variables}
    done = subprocess.run([sys.executable, "-c", DRAW], cwd=folder, env=environment, capture_output=True, check=False)
    assert done.stderr.decode() == ""
    return done.stdout


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("name", BROKEN)
def test_a_matplotlibrc_in_the_working_folder_changes_nothing(tmp_path, plain, name):
    (tmp_path / "matplotlibrc").write_bytes(BROKEN[name])
    assert drawn(tmp_path) == plain


def test_the_users_own_file_and_backend_change_nothing(tmp_path, plain):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "matplotlibrc").write_bytes(BROKEN["usetex"])
    assert drawn(tmp_path, MATPLOTLIBRC=str(tmp_path / "own"), MPLBACKEND="nonsense") == plain


def test_a_home_that_cannot_be_written_is_not_worth_a_word(tmp_path, plain):
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/x", "XDG_CONFIG_HOME": "/dev/null/y"}
    assert drawn(tmp_path, **nowhere) == plain


def test_settings_of_a_program_around_us_change_nothing_and_stay(monkeypatch):
    import matplotlib

    from compress.report.html.plot import Plot, svg

    plot = Plot("name", "title", "alt", lambda figure, palette: figure.subplots().plot([1, 2]), 100)
    before = svg(plot)
    with matplotlib.rc_context({"text.usetex": True, "lines.linewidth": 9}):
        assert svg(plot) == before
        assert matplotlib.rcParams["text.usetex"]
