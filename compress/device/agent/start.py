#!/usr/bin/env python3
"""Start the program of this bundle that this file is named after: `python3 benchmark.py --help` says what it does.

The programs are modules of the folder `agent`, for Python 3.6 to 3.13. Only files that `manifest.json` lists are
loaded from there, each after its SHA-256 was compared, and nothing else in this folder is ever imported: a file called
numpy.py that somebody left here is not numpy.
"""

import os
import sys

# Python looks for modules beside the script first.
HERE = os.path.realpath(os.path.dirname(__file__))
PACKAGE = "agent"
OURS = (
    HERE,
    os.path.join(HERE, PACKAGE),
    os.path.join(HERE, PACKAGE, "runners"),
    os.path.join(HERE, PACKAGE, "builder"),
)
sys.path[:] = [folder for folder in sys.path if os.path.realpath(folder) not in OURS]

# ruff: noqa: E402  what follows is looked for only after that
import hashlib
import importlib
import importlib.util
import json
from typing import Any, Dict

MANIFEST = "manifest.json"
LARGEST_BYTES = 16 << 20
AGAIN = "copy the bundle again"


class Listed(object):
    """Finds and loads the modules of the agent among the files that the manifest lists, and nowhere else."""

    def __init__(self, sums: Dict[str, str]) -> None:
        self.sums = sums

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] != PACKAGE:
            return None
        stem = name.replace(".", "/")
        for file, is_package in ((stem + "/__init__.py", True), (stem + ".py", False)):
            if file in self.sums:
                return importlib.util.spec_from_loader(name, self, origin=file, is_package=is_package)  # type: ignore
        raise SystemExit(stop("the manifest lists no file for the module %s, so it is not loaded" % name))

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        name = module.__spec__.origin
        path = os.path.join(HERE, *name.split("/"))
        try:
            content = read(path)
        except (OSError, IOError) as error:
            raise SystemExit(stop("%s: %s" % (name, error.strerror)))
        if hashlib.sha256(content).hexdigest() != self.sums[name]:
            reason = "%s is not the file the manifest names (its SHA-256 differs): nothing was loaded" % name
            raise SystemExit(stop(reason))
        exec(compile(content, path, "exec", dont_inherit=True), module.__dict__)


def read(path: str) -> bytes:
    """A file of at most 16 MiB; OSError where it is no regular file, as opening a FIFO would wait for ever."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(0, "it is not a regular file")
    with open(path, "rb") as stream:
        return stream.read(LARGEST_BYTES)


def checksums() -> Dict[str, str]:
    """SHA-256 by path, as far as the manifest names them; the program reads it again, and strictly."""
    path = os.path.join(HERE, MANIFEST)
    try:
        files = json.loads(read(path).decode("utf-8"), parse_int=len, parse_float=len)["files"]
        return {entry["path"]: entry["sha256"] for entry in files}
    except (OSError, IOError) as error:
        raise SystemExit(stop("cannot read %s: %s" % (path, error.strerror), "run this in the bundle's folder"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SystemExit(stop("%s is not a bundle's manifest: %s" % (path, repr(error)[:200])))


def stop(problem: str, fix: str = AGAIN) -> int:
    """Say what is wrong; the exit code."""
    print("error: %s | fix: %s" % (problem.encode("unicode_escape").decode("ascii"), fix), file=sys.stderr)
    return 2


def main() -> int:
    sys.meta_path.insert(0, Listed(checksums()))
    name = os.path.splitext(os.path.basename(__file__))[0]
    program = importlib.import_module("%s.%s" % (PACKAGE, name))
    return int(program.main(folder=HERE))


if __name__ == "__main__":
    sys.exit(main())
