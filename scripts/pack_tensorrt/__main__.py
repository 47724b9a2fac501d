"""Pack TensorRT for a GPU machine without network, in parts of a given size.

    python scripts/pack_tensorrt --models FOLDER --output PARTS [--part-mib 55] [--python /path/to/python3.10]
    python3 scripts/pack_tensorrt/unpack.py PARTS FOLDER        # over there; any Python 3.8 or later
    FOLDER/python FOLDER/... scripts/tensorrt_bench/measure.py  # runs with TensorRT

TensorRT 8.5.3 is the last release whose wheel holds TensorRT itself; it needs Python 3.10 at most and runs on current
GPUs. A trimmed interpreter with numpy goes along, and stand-ins for the CUDA libraries of its time (see standins.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from pack_tensorrt.standins import build_standins  # noqa: E402

WHEELS = ("tensorrt==8.5.3.1", "numpy==1.22.4")  # numpy 1.24 lacks the `np.bool` that TensorRT 8.5 asks for
BIG = ("libnvinfer.so.8", "libnvinfer_builder_resource.so.8.5.3")
NOT_NEEDED = ("test", "tests", "idlelib", "lib2to3", "ensurepip", "tkinter", "turtledemo", "distutils", "site-packages")
LAUNCHER = """#!/bin/sh
# Python 3.10 with TensorRT and numpy, wherever this folder lies.
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONHOME="$here/runtime" PYTHONPATH="$here/site" PYTHONDONTWRITEBYTECODE=1 CUDA_MODULE_LOADING=LAZY
export LD_LIBRARY_PATH="$here/runtime/lib:$here/site/tensorrt${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$here/runtime/bin/python3.10" "$@"
"""
FILTER = ("--lzma2=preset=6,dict=64MiB",)  # files of one network share their weights, tens of MB apart


def fetch(folder: Path) -> None:
    """The wheels for Python 3.10 on x86-64, unpacked into `folder`."""
    platforms = [f"--platform=manylinux{name}_x86_64" for name in ("_2_17", "2014", "1")]
    only = ["--only-binary=:all:", "--no-deps", "--python-version=3.10", "--implementation=cp"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *only, *platforms]
    subprocess.run([*command, *WHEELS], check=True)


def trim_python(python: Path, folder: Path) -> None:
    """What a script needs of an installed Python 3.10: the program, its library, the modules without their tests."""
    facts = subprocess.run(
        [python, "-c", "import sys, sysconfig; print(sys.base_prefix); print(sysconfig.get_path('stdlib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    prefix, modules = (Path(line) for line in facts.stdout.splitlines())
    (folder / "bin").mkdir(parents=True)
    shutil.copy2((prefix / "bin/python3.10").resolve(), folder / "bin/python3.10")
    ignore = shutil.ignore_patterns(*NOT_NEEDED, "__pycache__", "config-*", "*.a", "_test*", "*_tk*")
    shutil.copytree(modules, folder / "lib/python3.10", ignore=ignore)
    for library in sorted((prefix / "lib").glob("libpython3.10.so.1*")):
        shutil.copy2(library, folder / "lib" / library.name)
    for library in linked(folder / "lib/python3.10/lib-dynload", "libffi"):
        shutil.copy2(library, folder / "lib" / library.name)


def linked(folder: Path, name: str) -> Iterator[Path]:
    """System libraries starting with `name` that the extension modules in `folder` are linked to."""
    lines = subprocess.run(["ldd", *folder.glob("_ctypes.*.so")], capture_output=True, text=True, check=True).stdout
    found = {line.split("=>")[1].split()[0] for line in lines.splitlines() if name in line and "=>" in line}
    yield from (Path(path) for path in sorted(found))


def compress_file(source: Path, path: Path, threads: int) -> None:
    """xz, unless an earlier packing left the result: two libraries of 860 MB take minutes."""
    if path.exists():
        return
    part = path.with_suffix(".part")
    with part.open("wb") as stream:
        subprocess.run(["xz", f"-T{threads}", *FILTER, "-c", str(source)], stdout=stream, check=True)
    part.replace(path)


def write_parts(files: list[Path], output: Path, part_bytes: int) -> list[str]:
    """One tar over `files`, cut into `part-00`, `part-01`, ...; and `parts.json` with their SHA-256."""
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    with tempfile.NamedTemporaryFile(dir=output.parent) as whole:
        with tarfile.open(whole.name, "w") as archive:
            for path in files:
                archive.add(path, path.name)
        sums = [_write_part(output / f"part-{n:02}", content) for n, content in enumerate(_cut(whole.name, part_bytes))]
    (output / "parts.json").write_text(json.dumps(dict(sums), indent=1) + "\n")
    return [name for name, _ in sums]


def _cut(path: str, size: int) -> Iterator[bytes]:
    with open(path, "rb") as stream:  # noqa: PTH123
        while content := stream.read(size):
            yield content


def _write_part(path: Path, content: bytes) -> tuple[str, str]:
    path.write_bytes(content)
    return path.name, hashlib.sha256(content).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder made by bench_tensorrt.py make")
    parser.add_argument("--output", type=Path, required=True, help="folder for the parts; keep it out of git")
    parser.add_argument("--part-mib", type=int, default=55)
    parser.add_argument("--python", type=Path, default=Path("python3.10"), help="an installed Python 3.10")
    parser.add_argument("--work", type=Path, default=Path("build/tensorrt"), help="kept for the next packing")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    work = options.work
    site = work / "site"
    if not site.exists():
        fetch(site)
    print(f"stand-ins: {build_standins(site / 'tensorrt/libnvinfer_plugin.so.8', site / 'tensorrt')}")
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    trim_python(options.python, tree / "runtime")
    ignore = shutil.ignore_patterns(*BIG, "tests", "__pycache__", "*.dist-info", "*.pyi", "f2py", "doc")
    shutil.copytree(site, tree / "site", ignore=ignore)
    shutil.copytree(options.models, tree / "models", ignore=shutil.ignore_patterns("*.engine"))
    (tree / "python").write_text(LAUNCHER)
    (tree / "python").chmod(0o755)
    rest = work / "rest.tar"
    with tarfile.open(rest, "w") as archive:
        archive.add(tree, ".")
    (work / "rest.tar.xz").unlink(missing_ok=True)
    packed = [work / f"{name}.xz" for name in (*BIG, "rest.tar")]
    for name, path in zip(BIG, packed[:2], strict=True):
        compress_file(site / "tensorrt" / name, path, options.threads)
    compress_file(rest, packed[2], options.threads)
    for name in write_parts(packed, options.output, options.part_mib << 20):
        print(f"{options.output / name}: {(options.output / name).stat().st_size / (1 << 20):.1f} MiB")


if __name__ == "__main__":
    main()
