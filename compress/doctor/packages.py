"""Checks of the installed packages against what this package's own metadata asks for. Imports none of them."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from compress.doctor.check import Check, Level

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["examine_packages"]

_SELF = "edge-compress"
_HIDDEN_EXTRAS = {"all", "dev"}

_PURPOSES = {
    "torch": "models, training, quantization",
    "torchvision": "networks and data sets",
    "torchao": "quantization in PyTorch (PT2E)",
    "torch-pruning": "channels that are cut together",
    "onnx": "reading and writing ONNX",
    "onnxruntime": "running ONNX files",
    "onnxscript": "exporting to ONNX",
    "onnx-ir": "rewriting ONNX graphs",
    "hydra-core": "configuration",
    "pydantic": "configuration, checked",
    "pyyaml": "configuration and device facts",
    "numpy": "arrays",
    "pillow": "reading images",
    "platformdirs": "where the cache lies",
    "psutil": "memory of this machine",
    "rich": "tables and progress bars",
    "safetensors": "reading weights",
    "scikit-learn": "the embedded data set of handwritten digits",
    "jinja2": "report pages",
    "matplotlib": "plots of report pages",
    "onnxslim": "optimizing ONNX graphs",
}
_EXTRAS = {
    "tflite": "TFLite files, needed for coral",
    "tensorrt": "building and running engines on this machine's GPU",
    "tensorboard": "logger=tensorboard",
    "mlflow": "logger=mlflow",
}


def examine_packages() -> list[Check]:
    """One finding per package that is always needed, and one per extra."""
    try:
        declared = metadata.requires(_SELF) or []
    except metadata.PackageNotFoundError:
        checks = [_present(name) for name in _PURPOSES]
        return [*checks, Check("packages", _SELF, Level.NOTE, "run from its folder, not installed", "pip install -e .")]
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:  # hydra-core brings it
        return [_present(name) for name in (*_PURPOSES, "packaging")]
    requirements = [Requirement(line) for line in declared]
    core = [_core(requirement) for requirement in requirements if _applies(requirement, extra="")]
    extras = sorted(set(metadata.metadata(_SELF).get_all("Provides-Extra") or ()) - _HIDDEN_EXTRAS)
    return [*core, *(check for extra in extras for check in _extra(extra, requirements))]


def _applies(requirement: Requirement, extra: str) -> bool:
    """Tell whether this Python and platform have it, as one of `extra`, or of the package itself if that is empty."""
    always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if not extra or always or requirement.marker is None:
        return always and not extra
    return requirement.marker.evaluate({"extra": extra})


def _core(requirement: Requirement) -> Check:
    name, text = requirement.name, _PURPOSES.get(requirement.name, "")
    version = _version(name)
    fix = f"pip install '{requirement}'"
    if version is None:
        return Check("packages", name, Level.NO, f"not installed: {text}", fix, needed=True)
    if not requirement.specifier.contains(version, prereleases=True):
        problem = f"{version} is installed, {requirement.specifier} is needed: {text}"
        return Check("packages", name, Level.NO, problem, fix, needed=True)
    return Check("packages", name, Level.OK, f"{version}  {text}", needed=True)


def _extra(extra: str, requirements: Iterable[Requirement]) -> Iterator[Check]:
    """Nothing for an extra that has no packages at all."""
    members = [line for line in requirements if f'extra == "{extra}"' in str(line.marker)]
    applicable = [line for line in requirements if _applies(line, extra)]
    name, purpose = f"[{extra}]", _EXTRAS.get(extra, "")
    if not members:
        return
    if not applicable:
        where = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
        packages = ", ".join(sorted({line.name for line in members}))
        yield Check("packages", name, Level.NOTE, f"{packages}: not to be had for {where}. For {purpose}")
        return
    absent = [str(line) for line in applicable if not _fits(line)]
    versions = ", ".join(f"{line.name} {_version(line.name)}" for line in applicable if _fits(line))
    if absent:
        problem = f"without {', '.join(absent)}: {purpose}"
        yield Check("packages", name, Level.NOTE, problem, f"pip install '{_SELF}[{extra}]'")
    else:
        yield Check("packages", name, Level.OK, ": ".join(filter(None, [versions, purpose])))


def _fits(requirement: Requirement) -> bool:
    version = _version(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _present(name: str) -> Check:
    """Check that a package is installed, for when there is no telling which version is needed."""
    version, text = _version(name), _PURPOSES.get(name, "reading version numbers")
    if version is None:
        return Check("packages", name, Level.NO, f"not installed: {text}", f"pip install {name}", needed=True)
    return Check("packages", name, Level.OK, f"{version}  {text}", needed=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
