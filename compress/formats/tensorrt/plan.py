"""Plan of how an engine is to be built: written here, carried out by `build_engine.py` wherever the engine will run."""

from __future__ import annotations

from dataclasses import dataclass

from compress.core.artifact import Precision

__all__ = ["CALIBRATION_SUFFIX", "EnginePlan"]

CALIBRATION_SUFFIX = ".calibration.cache"
"""Name's end of TensorRT's own file of INT8 scales, for those who build from a float file."""


@dataclass(frozen=True)
class EnginePlan:
    """Contents of `<name>.plan.json`, which `build_engine.py` reads.

    Attributes:
        onnx: name of the file to build from, in the same folder.
        sha256: of that file.
        precision: of the arithmetic; INT8 files bring their own Q/DQ, everything else in them runs in FP16.
        batch: smallest, usual and largest batch of the profile.
        workspace_mib: memory the builder may use for one kernel's scratch space.
        dla_core: the deep learning accelerator that runs what it can, the GPU runs the rest; None: the GPU runs all.
        sparse: whether kernels for 2:4 sparse weights may be used.
        expects: device and TensorRT version that this was made for.
    """

    onnx: str
    sha256: str
    precision: Precision
    batch: tuple[int, int, int]
    workspace_mib: int
    dla_core: int | None
    sparse: bool
    expects: str
