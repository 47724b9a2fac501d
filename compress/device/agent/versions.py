"""Versions of the runtimes that are installed here."""

import glob
import os
import re
import sys
from typing import List, Optional

from .values import Json, Problem

INSTALL = "pip install -r requirements.txt"


def missing_runtime(package: str, error: object, install: Optional[str] = None) -> Problem:
    return Problem("%s cannot be imported: %s" % (package, error), install or INSTALL)


def require_version(version: str, family: str, model: Json) -> None:
    """Refuse a runtime older than the model needs, in words instead of a parser's."""
    oldest = model.get("needs", {}).get(family)
    if oldest and version_numbers(version) < version_numbers(oldest):
        raise Problem(
            "%s %s is too old for opset %s of %s: %s reads it"
            % (family, version, model.get("opset"), model["path"], oldest),
            "pip install -r requirements.txt, or export with a lower opset",
        )


def version_numbers(version: str) -> List[int]:
    """`1.10.0+cu1` as `[1, 10, 0]`."""
    return [int(part) for part in re.match(r"[\d.]*", version).group().split(".") if part]  # type: ignore[union-attr]


def package_version(package: str) -> str:
    """Version of an installed package, for modules that do not say; importlib.metadata is absent before Python 3.8."""
    found = [name for folder in sys.path for name in glob.glob(os.path.join(folder, package + "-*.dist-info"))]
    return os.path.basename(found[0]).split("-")[1] if found else "(version unknown)"
