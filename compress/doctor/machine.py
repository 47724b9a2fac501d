"""Checks of this machine: processor, whether its INT8 can be believed, GPU, disk, and the programs that are called."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from compress.core.errors import CompressError
from compress.doctor.check import Check, Level
from compress.formats.edgetpu.compiler import PROGRAM, VARIABLE, find_compiler
from compress.measure.host import Host, int8_trusted
from compress.support.child import find_program

__all__ = ["examine_machine"]

_GIB = 1 << 30
_LITTLE_SPACE_BYTES = 2 * _GIB  # the default job leaves a few MiB; ImageNet-sized networks leave some hundred per run


def examine_machine(host: Host, output: Path) -> list[Check]:
    """Findings about the machine; `output` is where results would go."""
    return [_processor(host), _int8(host), _gpu(), _disk(output), _ssh(), _compiler()]


def _processor(host: Host) -> Check:
    size = f"{host.cores} core{'s' * (host.cores != 1)}, {host.memory_bytes / _GIB:.1f} GiB"
    return Check("machine", "processor", Level.OK, f"{host.label}, {size}; {host.os}, Python {host.python}")


def _int8(host: Host) -> Check:
    if int8_trusted(host, reduce_range=False):
        how = next((level for level in host.isa if "amx" in level or "vnni" in level), host.architecture)
        return Check("machine", "int8", Level.OK, f"accuracy of INT8 files measured here can be trusted ({how})")
    return Check(
        "machine",
        "int8",
        Level.NOTE,
        "8-bit products saturate on this processor (neither VNNI nor AMX): accuracy of INT8 ONNX files measured here "
        "is not what a device computes, and reports say so",
        "stage.ptq_static.reduce_range=true, or measure on the device",
    )


def _gpu() -> Check:
    from compress.formats.tensorrt.cuda import open_gpu

    try:
        gpu = open_gpu()
    except CompressError as error:
        return Check("machine", "gpu", Level.NOTE, error.problem, error.fix)
    if gpu is None:
        return Check("machine", "gpu", Level.NOTE, "no NVIDIA GPU answers; training runs on the processor")
    return Check("machine", "gpu", Level.OK, f"{gpu.name}, compute capability {'.'.join(map(str, gpu.capability))}")


def _disk(output: Path) -> Check:
    folder = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return Check(
            "machine", "disk", Level.NO, f"{folder} cannot be written", "output=<a folder of yours>", needed=True
        )
    free = shutil.disk_usage(folder).free
    text = f"{free / _GIB:.1f} GiB free for {output}"
    if free < _LITTLE_SPACE_BYTES:
        return Check("machine", "disk", Level.NOTE, text, "output=<a folder on another disk>", needed=True)
    return Check("machine", "disk", Level.OK, text, needed=True)


def _ssh() -> Check:
    program = find_program("ssh")
    if program is None:
        return Check("machine", "ssh", Level.NOTE, "no ssh: boards cannot be measured from here", "install OpenSSH")
    return Check("machine", "ssh", Level.OK, f"{program}, for device.host=...")


def _compiler() -> Check:
    try:
        compiler = find_compiler()
    except CompressError as error:
        return Check("machine", PROGRAM, Level.NO, error.problem, error.fix)
    if compiler is None:
        fix = f"install it (x86-64 Debian, https://coral.ai/docs/edgetpu/compiler/) or set {VARIABLE}"
        return Check("machine", PROGRAM, Level.NOTE, "not here: files for the Edge TPU are compiled elsewhere", fix)
    return Check("machine", PROGRAM, Level.OK, str(compiler.program or compiler.image))
