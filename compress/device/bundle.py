"""Write a bundle: everything the device needs, and nothing that changes from one run to the next.

bundle/             the exported models, golden.npz, benchmark.py, requirements.txt, README.md, manifest.json; for
                    TensorRT build_engine.py, as its engines are built where they run; agent/ is what both start
bundle.tar.gz       the same; equal files give equal bytes
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from compress import __version__
from compress.core.artifact import AS_STORED, COMPILED_SUFFIX, SCRIPT_SUFFIX, Artifact, InputSpec, Scaling
from compress.core.target import Deployment, Target
from compress.device.archive import pack
from compress.device.bundle_agent import AGENT, agent_files
from compress.device.tolerance import tolerances
from compress.formats.base import NotMeasured, OpenFile
from compress.formats.registry import device_runtime, open_file
from compress.results.bundle import (
    MANIFEST,
    SCHEMA_VERSION,
    BundleFile,
    BundleModel,
    Expected,
    Golden,
    Manifest,
)
from compress.support.files import copy_file, copy_new, make_folder, sha256_file, write_bytes
from compress.support.serialize import to_json

__all__ = ["Content", "write_bundle"]


_ENGINES = """Engines first: `python3 build_engine.py` builds them here, on the device they run on, checks them, and
says which is fastest. `benchmark.py` then times those, each under the name of its ONNX file.

"""


_VENV_COMMANDS = """\
    python3 -m venv venv
    venv/bin/python -m pip install --upgrade pip
    venv/bin/python -m pip install -r requirements.txt
    venv/bin/python benchmark.py --json result.json

If the first line fails: `sudo apt install python3-venv`. The second matters on Debian 10 (Mendel), whose pip is too old
to find the wheels. Without the virtual environment, Debian 12 and later refuse to install packages (PEP 668)."""

_SYSTEM_COMMANDS = """\
    python3 benchmark.py --json result.json

The runtime comes with the device's system; nothing has to be installed."""

_COMPILE = """The Edge TPU first: `$path` is not compiled yet. In this folder, on x86-64 Linux with
[edgetpu_compiler](https://coral.ai/docs/edgetpu/compiler/):

    sh $script

writes `$compiled` here. Copy the folder to the device with it, or let `python -m compress.device bench` do that.
`$stage` is measured with that file only; until it is there, its line says so.

"""


@dataclass(frozen=True)
class Content:
    """Content of a bundle.

    Attributes:
        models: exported files by the stage that wrote them.
        golden: an `.npz` with `inputs`, and each model's outputs by stage.
        exact: stages whose golden outputs were computed without saturating 8-bit products.
        extra: further files for the device, each written at the bundle's top.
        scaling: how pictures got the input's size.
    """

    target: Target
    input: InputSpec
    classes: tuple[str, ...]
    models: Mapping[str, Artifact]
    golden: Path
    exact: frozenset[str]
    extra: tuple[Path, ...] = ()
    scaling: Scaling = AS_STORED


def write_bundle(content: Content, folder: Path) -> None:
    """Write the bundle's folder, and the archive beside it.

    Raises:
        StageError: the file system refuses.
    """
    make_folder(folder)
    models = _models(content)
    for path in (*(artifact.path for artifact in content.models.values()), content.golden, *content.extra):
        _place(path, folder / path.name)
    for name, source in agent_files({model.runtime for model in models}).items():
        make_folder((folder / name).parent)
        copy_file(source, folder / name)
    packages = _packages(content)
    write_bytes(folder / "requirements.txt", _requirements(content.target, packages).encode())
    write_bytes(folder / "README.md", _readme(content, models).encode())
    manifest = _manifest(content, models, packages, folder)
    write_bytes(folder / MANIFEST, to_json(manifest))
    pack(folder, folder.with_name(folder.name + ".tar.gz"))


def _place(source: Path, path: Path) -> None:
    """A second name for the same file; a copy where the file system has no such thing.

    Raises:
        StageError: something else has this name already.
    """
    try:
        os.link(source, path)
    except OSError:
        copy_new(source, path)


def _models(content: Content) -> tuple[BundleModel, ...]:
    with np.load(content.golden, allow_pickle=False) as golden:
        return tuple(
            _model(stage, artifact, content, golden[stage]) for stage, artifact in sorted(content.models.items())
        )


def _model(stage: str, artifact: Artifact, content: Content, golden: NDArray[np.float32]) -> BundleModel:
    deployment = content.target.deployment.get(artifact.format)
    host_runtime, _ = device_runtime(artifact.format, None)
    runtime, how = device_runtime(artifact.format, deployment.runtime if deployment else None)
    file = open_file(artifact)
    return BundleModel(
        stage=stage,
        path=artifact.path.name,
        format=artifact.format,
        precision=artifact.precision,
        runtime=runtime,
        runner=how.runner,
        dynamic_batch=artifact.dynamic_batch,
        sample_shape=content.input.shape,
        compiled=artifact.path.stem + COMPILED_SUFFIX if artifact.deferred else None,
        tolerance=tolerances(artifact.precision, host_runtime, golden, exact=stage in content.exact),
        opset=_opset(file),
        needs=file.needs(),
        cpu_flags=how.cpu_flags,
        history=artifact.history,
    )


def _opset(file: OpenFile) -> int | None:
    try:
        return file.opset()
    except NotMeasured:
        return None


def _deployments(content: Content) -> list[Deployment]:
    """Deployments that the device's profile states for the formats of the bundle's models."""
    formats = {artifact.format for artifact in content.models.values()}
    return [entry for kind, entry in content.target.deployment.items() if kind in formats]


def _packages(content: Content) -> tuple[str, ...]:
    """Pinned packages of the runtimes that the bundle's models need, as the device's profile lists them."""
    return tuple(sorted({package for entry in _deployments(content) for package in entry.packages}))


def _glibc(content: Content) -> str | None:
    """The oldest version that all those packages run with."""
    needed = (entry.glibc for entry in _deployments(content) if entry.glibc)
    return max(needed, key=lambda version: [int(part) for part in version.split(".")], default=None)


def _requirements(target: Target, packages: Sequence[str]) -> str:
    head = f"# {target.title}: Python {target.python.value} on {target.architecture}; {target.runtime.value}\n"
    if not packages:
        head += "# The runtime comes with the device's system; benchmark.py says what is missing.\n"
    return head + "".join(f"{package}\n" for package in packages)


def _readme(content: Content, models: Sequence[BundleModel]) -> str:
    target, spec = content.target, content.input
    rows = (f"| `{model.stage}` | `{model.path}` | {model.precision} | {model.runtime} |" for model in models)
    glibc = _glibc(content)
    return Template((AGENT / "README.md").read_text(encoding="utf-8")).substitute(
        commands=_VENV_COMMANDS if _packages(content) else _SYSTEM_COMMANDS,
        glibc=f" with glibc {glibc} or later (`ldd --version`)" if glibc else "",
        compile=_compile_section(models),
        target=target.name,
        title=target.title,
        python=target.python.value,
        architecture=target.architecture,
        runtime=target.runtime.value,
        engines=_ENGINES if any(model.runtime == "tensorrt" for model in models) else "",
        models="\n".join(rows),
        layout="NCHW",
        shape=list(spec.shape),
        channel_order=spec.channel_order,
        mean=list(spec.mean),
        std=list(spec.std),
        scaling=_scaled(content.scaling),
    )


def _scaled(scaling: Scaling) -> str:
    """Say how a picture gets the input's size, as a sentence's middle."""
    method = f"{scaling.interpolation} interpolation (Pillow's)"
    if scaling.stretch:
        return f"scaled to that height and width with {method}"
    if scaling.resize is None:
        return "cropped at the centre, not scaled"
    return f"scaled to a short side of {scaling.resize} pixels with {method}, then cropped at the centre"


def _compile_section(models: Sequence[BundleModel]) -> str:
    """Explain how to compile what is not yet."""
    return "".join(
        Template(_COMPILE).substitute(
            path=model.path,
            script=f"{Path(model.path).stem}{SCRIPT_SUFFIX}",
            compiled=model.compiled,
            stage=model.stage,
        )
        for model in models
        if model.compiled
    )


def _manifest(content: Content, models: tuple[BundleModel, ...], packages: tuple[str, ...], folder: Path) -> Manifest:
    target = content.target
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    with np.load(content.golden, allow_pickle=False) as golden:
        samples = len(golden["inputs"])
    return Manifest(
        schema_version=SCHEMA_VERSION,
        producer=f"edge-compress {__version__}",
        target=target.name,
        device=Expected(
            title=target.title,
            architecture=target.architecture,
            python=target.python.value,
            runtime=target.runtime.value,
            isa_flags=target.isa_flags.value,
            packages=packages,
        ),
        layout="NCHW",
        input=content.input,
        classes=content.classes,
        golden=Golden(content.golden.name, samples),
        models=models,
        files=tuple(
            BundleFile(path.relative_to(folder).as_posix(), sha256_file(path), path.stat().st_size) for path in paths
        ),
        scaling=content.scaling,
    )
