"""Run the real command in a process of its own, and check what it left behind."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def compress(
    *arguments: str, cwd: Path, timeout: float = 300, python: str = sys.executable, **environment: str
) -> Done:
    """`python -m compress ...` with plain output, to completion."""
    done = subprocess.run(
        [python, "-m", "compress", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run_folders(output: Path) -> list[Path]:
    """Finished run folders, oldest first; hidden ones are the store and unfinished work, `multirun` compares them."""
    targets = [folder for folder in output.glob("[!.]*") if folder.is_dir() and folder.name != "multirun"]
    return sorted(run for target in targets for run in target.glob("[!.]*"))


def checked_manifest(folder: Path) -> dict:
    """The manifest, after comparing every file it names with its checksum and size."""
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = {record["path"] for record in manifest["files"]}
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert listed == present - {"manifest.json"}
    for record in manifest["files"]:
        content = (folder / record["path"]).read_bytes()
        assert len(content) == record["size_bytes"]
        assert hashlib.sha256(content).hexdigest() == record["sha256"]
    return manifest


def rows(folder: Path) -> dict[str, dict]:
    """The report's measurements by stage."""
    report = json.loads((folder / "report.json").read_text())
    return {row["stage"]: row for row in report["measurements"]}
