"""Names that lead to no file, or to one of a kind nobody should wait for, in every option that takes a path."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from robustness_case import Case, generated

from compress.__main__ import main
from compress.cache.__main__ import main as cache
from compress.device.__main__ import main as device
from compress.profile.__main__ import main as profile
from compress.report.__main__ import main as report

__all__ = ["paths"]

_NAMES: dict[str, str] = {
    "absent": "absent",
    "empty": "empty",
    "folder": "folder",
    "fifo": "fifo",
    "socket": "socket",
    "loop": "loop",
    "loop inside": "loop/x",
    "dangling": "dangling",
    "closed": "closed",
    "closed folder": "closed_folder/x",
    "below a file": "empty/x",
    "zero": "/dev/zero",
    "full": "/dev/full",
    "terminal": "/dev/ptmx",
    "memory": "/proc/self/mem",
    "process": "/proc/self/fd",
    "long": "x" * 300,
    "long path": "x/" * 3000,
    "NUL": "a\0b",
    "surrogate": "a\ud800",
    "byte": "a\udcff",
    "newline": "a\nb",
    "escape": "\x1b[31mred\u202e",
    "quotes": "'\"\\${x}",
    "home": "~nobody/x",
    "dots": "../../../../../../../../../../etc/shadow",
    "blank": " ",
    "": "",
}

_RUN = ("target=jetson_nano", "output=out", "-q")
_DATA = ("model=file", "model.path=absent.onnx")
_MODEL = ("data=npz", "data.file=images.npz", "data.calibration=1", "data.validation=1", "data.evaluation=1")
_GRAY = (
    "model.input.shape=[1,8,8]",
    "model.input.channel_order=gray",
    "model.input.mean=[0.5]",
    "model.input.std=[0.5]",
)

_DOORS: dict[str, Callable[[str], object]] = {
    "csv": lambda name: main([*_RUN, *_DATA, "data=csv", f"data.file={name}"]),
    "csv test": lambda name: main([*_RUN, *_DATA, "data=csv", "data.file=table.csv", f"data.test={name}"]),
    "csv root": lambda name: main([*_RUN, *_DATA, "data=csv", "data.file=table.csv", f"data.root={name}"]),
    "csv row": lambda name: main([*_RUN, *_DATA, "data=csv", "data.file=row.csv"]),
    "npz": lambda name: main([*_RUN, *_DATA, "data=npz", f"data.file={name}"]),
    "images": lambda name: main([*_RUN, *_DATA, "data=image_folder", f"data.train={name}"]),
    "class map": lambda name: main([*_RUN, *_DATA, "data=image_folder", "data.train=photos", f"data.class_map={name}"]),
    "class names": lambda name: main(
        [*_RUN, *_DATA, "data=image_folder", "data.train=photos", f"data.class_names={name}"]
    ),
    "model": lambda name: main([*_RUN, *_MODEL, *_GRAY, "model=file", f"model.path={name}"]),
    "onnx": lambda name: main([*_RUN, *_MODEL, *_GRAY, "model=file", f"model.path={name}.onnx"]),
    "inventory": lambda name: main([*_RUN, *_DATA, "data=digits", "device.host=kitchen", f"device.inventory={name}"]),
    "configurations": lambda name: main([*_RUN, *_DATA, "data=digits", "--config-dir", name]),
    "choice": lambda name: main([*_RUN, *_DATA, f"data={name}"]),
    "target": lambda name: main([f"target={name}", *_DATA]),
    "output": lambda name: main(["target=jetson_nano", *_DATA, "data=digits", f"output={name}"]),
    "report": lambda name: report([name]),
    "report output": lambda name: report(["folder", "--output", name]),
    "profile": lambda name: profile([name]),
    "stored profile": lambda name: profile([f"{name}.json"]),
    "bundle": lambda name: device(["verify", "--bundle", name]),
    "devices": lambda name: device(["check", "kitchen", "--devices", name]),
    "cache": lambda name: cache([name, "--verify"]),
    "cache entry": lambda name: cache(["kept", "--verify"]),
}


def _prepare(name: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / "empty").write_bytes(b"")
        (folder / "table.csv").write_text("path,label\nempty,0\n")
        (folder / "row.csv").write_bytes(b"path,label\n" + name.encode("utf-8", "surrogatepass") + b",0\n")
        (folder / "loop").symlink_to("loop")
        (folder / "dangling").symlink_to("nowhere")
        (folder / "closed").touch(mode=0o000)
        (folder / "closed_folder").mkdir(mode=0o000)
        for kind in ("photos/cat", "photos/dog", "folder", "kept/.cache/stages/k"):
            (folder / kind).mkdir(parents=True)
        for pipe in (
            "fifo",
            "fifo.onnx",
            "fifo.json",
            "folder/manifest.json",
            "folder/report.json",
            "photos/cat/a.png",
        ):
            os.mkfifo(folder / pipe)
        os.mkfifo(folder / "kept/.cache/stages/k/entry.json")
        (folder / "photos/dog/a.png").symlink_to("/dev/zero")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")

    return prepare


def _mixed(rng: random.Random) -> str:
    """Two names in one another, or one with noise."""
    first, second = rng.choice(sorted(_NAMES.values())), rng.choice(sorted(_NAMES.values()))
    return rng.choice(
        (f"{first}/{second}", f"{first}{second}", f"./{first}", f"{first}/../{second}", f"{first}\0", f" {first}")
    )


def _one(rng: random.Random) -> Case:
    door = rng.choice(sorted(_DOORS))
    kind = rng.choice(sorted(_NAMES))
    name = _NAMES[kind] if rng.random() < 0.7 else _mixed(rng)
    gone = rng.random() < 0.05
    run = _DOORS[door]

    def opened() -> object:
        if gone:
            Path("left").mkdir()
            os.chdir("left")
            Path("../left").rmdir()
        return run(name)

    return Case(f"{door}: {'no working folder, ' if gone else ''}{ascii(name)[:60]}", _prepare(name), opened)


def paths(count: int, seed: int) -> Iterator[Case]:
    """Command lines with a path in them."""
    return generated(count, seed, _one)
