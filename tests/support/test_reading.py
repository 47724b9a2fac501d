"""Every name that leads to no regular file is an OSError with a reason, at once."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from doubles import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from compress.core.artifact import InputSpec
from compress.core.errors import CompressError, DataError, StageError
from compress.data import CsvData, ImageFolderData, NpzData
from compress.data.csv_table import read_csv
from compress.data.image_folder import read_image_folders
from compress.data.npz import read_npz
from compress.data.source import FileSource
from compress.device.inventory import read_inventory
from compress.formats.onnx.source import load_onnx
from compress.models.checkpoint import read_state_dict
from compress.profile.document import read_profile
from compress.report.pages import read_reports
from compress.results.bundle import read_bundle
from compress.support.files import inside
from compress.support.reading import (
    absolute,
    home_expanded,
    is_file,
    is_folder,
    open_regular,
    read_bytes,
    read_text,
    unreadable,
)

STRANGE = {
    "absent": ("absent", "No such file"),
    "folder": ("folder", "Is a directory"),
    "fifo": ("fifo", "it is a FIFO"),
    "device": ("/dev/zero", "it is a device"),
    "terminal": ("/dev/ptmx", "it is a device"),
    "socket": ("socket", "No such device or address|it is a socket"),
    "loop": ("loop", "Too many levels"),
    "dangling": ("dangling", "No such file"),
    "below a file": ("plain/x", "Not a directory"),
    "long": ("x" * 5000, "name too long"),
    "long path": ("x/" * 5000, "name too long"),
    "NUL": ("a\0b", "NUL"),
    "surrogate": ("a\ud800", "characters that no file name can have"),
}


@pytest.fixture
def strange(tmp_path, monkeypatch) -> Path:
    """The working folder, with one thing of each kind in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_text("text")
    (tmp_path / "linked").symlink_to("plain")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    return tmp_path


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_regular_file_is_refused_at_once(strange, kind):
    name, reason = STRANGE[kind]
    with pytest.raises(OSError, match=reason) as caught:
        open_regular(Path(name))
    assert caught.value.strerror
    assert unreadable(Path(name))
    assert not is_file(Path(name))
    assert is_folder(Path(name)) == (kind == "folder")


def test_regular_files_and_links_to_them_are_opened(strange):
    for name in ("plain", "linked"):
        with open_regular(Path(name)) as stream:
            assert stream.read() == b"text"
        assert unreadable(Path(name)) is None
        assert is_file(Path(name))
    assert not os.get_blocking(os.open("plain", os.O_RDONLY | os.O_NONBLOCK))


def test_sizes_and_encodings_are_bounded(strange):
    assert read_bytes(Path("plain"), 4) == b"text"
    with pytest.raises(OSError, match="larger than 0 KiB"):
        read_bytes(Path("plain"), 3)
    Path("plain").write_bytes(b"\xef\xbb\xbfa\xff")
    with pytest.raises(OSError, match=r"not UTF-8 text"):
        read_text(Path("plain"))


def test_a_home_that_is_not_known_is_told(monkeypatch):
    with pytest.raises(OSError, match="set HOME"):
        home_expanded(Path("~nobody-of-that-name/key"))
    assert home_expanded(Path("~/key")).is_absolute()


@pytest.mark.parametrize("name", ["a\0b", "loop/x", "x" * 5000, "a\ud800", "../out", "/etc/passwd"])
def test_names_in_manifests_stay_inside_or_are_told(strange, name):
    if name == "x" * 5000:
        assert not is_file(inside(strange, name))
        return
    with pytest.raises(StageError):
        inside(strange, name)


INPUT = InputSpec((1, 8, 8), "gray", (0.5,), (0.5,))
DOORS = {
    "csv": lambda path: read_csv(CsvData(kind="csv", file=path)),
    "csv test": lambda path: read_csv(CsvData(kind="csv", file=Path("table.csv"), test=path)),
    "npz": lambda path: read_npz(NpzData(kind="npz", file=path), 1),
    "image folder": lambda path: read_image_folders(ImageFolderData(kind="image_folder", train=path), lambda: None),
    "image": lambda path: FileSource(("a",), (path,), np.zeros(1, np.int64)).picture(0),
    "checkpoint": read_state_dict,
    "safetensors": lambda path: read_state_dict(path.with_suffix(".safetensors") if path.name else path),
    "onnx": lambda path: load_onnx(path, INPUT),
    "inventory": read_inventory,
    "bundle": read_bundle,
    "report": lambda path: read_reports([path]),
    "profile": read_profile,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", STRANGE)
def test_every_door_tells_of_it_in_one_line(strange, door, kind):
    (strange / "table.csv").write_text("path,label\nplain,0\n")
    with pytest.raises(CompressError) as caught:
        DOORS[door](Path(STRANGE[kind][0]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 12_000


@pytest.mark.parametrize("door", ["bundle", "report"])
def test_a_document_that_is_a_fifo_is_not_waited_for(strange, door):
    os.mkfifo("folder/manifest.json")
    os.mkfifo("folder/report.json")
    with pytest.raises(CompressError, match="it is a FIFO"):
        DOORS[door](Path("folder"))


def test_names_with_control_characters_are_shown_escaped(strange):
    with pytest.raises(DataError) as caught:
        DOORS["csv"](Path("a\nb\x1b[31m\u202e.csv"))
    assert r"a\nb\x1b[31m\u202e.csv" in str(caught.value)


NAMES = st.lists(
    st.sampled_from(
        ["a", "plain", "folder", "loop", "fifo", "linked", "/", "..", ".", "\0", "\ud800", "\udcff", "~", "\n"]
    )
    | st.sampled_from(
        ["/dev/null", "/dev/full", "/proc/self/mem", "/proc/self/fd/0", "x" * 300, "\x1b[2J", "\u2028", " "]
    ),
    min_size=1,
    max_size=4,
).map("".join)


@given(NAMES, st.sampled_from(sorted(DOORS)))
@example("/proc/self/mem", "checkpoint")
@example("", "npz")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_is_one_line(strange, name, door):
    check(name, door)


@pytest.mark.slow
@given(NAMES, st.sampled_from(sorted(DOORS)))
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_many_names_are_one_line(strange, name, door):
    check(name, door)


def check(name: str, door: str) -> None:
    try:
        DOORS[door](Path(name))
    except CompressError as refusal:
        line = str(refusal)
        assert "\n" not in line


def test_a_working_folder_that_was_deleted_is_told(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"import os; os.rmdir({str(gone)!r}); from compress.support.reading import absolute\n"
    script += "from pathlib import Path\n"
    script += "try: absolute(Path('x'))\nexcept OSError as error: print(error.strerror)"
    import subprocess

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], cwd=gone, env=environment, capture_output=True, text=True)
    assert done.stdout == "No such file or directory\n"
    assert absolute(Path("/a/../b")) == Path("/b")
