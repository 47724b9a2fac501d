"""Put the parts together again: `python3 unpack.py PARTS FOLDER`. Needs nothing but Python 3.8."""

import hashlib
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TENSORRT = "site/tensorrt"


def join(parts: Path, folder: Path) -> None:
    """Check every part's SHA-256, then unpack the tar they are pieces of into `folder`."""
    sums = json.loads((parts / "parts.json").read_text())
    whole = folder / "whole.tar"
    with whole.open("wb") as stream:
        for name in sorted(sums):
            content = (parts / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != sums[name]:
                raise SystemExit(f"error: {name} is damaged; carry it again")
            stream.write(content)
    with tarfile.open(whole) as archive:
        archive.extractall(folder)  # our own archive, checked above
    whole.unlink()


def expand(path: Path) -> None:
    """`X.xz` becomes `X`; by the xz program, which uses all cores, where there is one."""
    if shutil.which("xz"):
        subprocess.run(["xz", "-T0", "-d", "-f", str(path)], check=True)
        return
    with lzma.open(path) as source, path.with_suffix("").open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 22)
    path.unlink()


def main() -> None:
    parts, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    join(parts, folder)
    with ThreadPoolExecutor() as pool:
        list(pool.map(expand, sorted(folder.glob("*.xz"))))
    with tarfile.open(folder / "rest.tar") as archive:
        archive.extractall(folder)
    (folder / "rest.tar").unlink()
    for library in folder.glob("libnvinfer*"):
        library.rename(folder / TENSORRT / library.name)


if __name__ == "__main__":
    main()
