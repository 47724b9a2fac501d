"""The machine that measures: what it is called, what its CPU can do, and whether its INT8 can be believed."""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from compress.core.quantities import Count
from compress.formats.runtimes import usable_cores

__all__ = ["Host", "describe_host", "int8_trusted", "isa_levels"]

_LEVELS = {
    "amx_int8": "amx_int8",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512",
    "avx2": "avx2",
    "i8mm": "i8mm",
    "asimddp": "asimddp",
    "fphp": "fp16",
    "asimd": "neon",
    "neon": "neon",
}
"""Flags of /proc/cpuinfo that decide which kernels a runtime picks, strongest first, by the names used in reports."""

_X86 = frozenset({"x86_64", "amd64", "i386", "i686"})
_ARM = frozenset({"aarch64", "arm64", "armv7l", "armv8l"})
_EXACT_INT8 = frozenset({"amx_int8", "avx512_vnni", "avx_vnni"})


@dataclass(frozen=True)
class Host:
    """The machine a number was measured on.

    Attributes:
        cpu: model name as the system gives it.
        architecture: `x86_64`, `aarch64`, ...
        isa: instruction sets that matter for speed and INT8, strongest first; empty where the system does not say.
        cores: logical cores this process may use.
        memory_bytes: physical memory.
    """

    cpu: str
    architecture: str
    isa: tuple[str, ...]
    cores: Count
    memory_bytes: Count
    os: str
    python: str

    @property
    def label(self) -> str:
        """One line for tables: `Intel(R) Xeon(R) Processor, avx512_vnni`."""
        return f"{self.cpu}, {self.isa[0]}" if self.isa else self.cpu


@functools.cache
def describe_host() -> Host:
    """Facts about this machine."""
    import psutil

    cpu, flags = _cpu_info(Path("/proc/cpuinfo"))
    return Host(
        cpu=cpu or platform.processor() or platform.machine() or "unknown CPU",
        architecture=platform.machine(),
        isa=isa_levels(flags),
        cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )


def isa_levels(flags: Iterable[str]) -> tuple[str, ...]:
    """The instruction sets in `flags` (as in /proc/cpuinfo) that matter here, strongest first."""
    given = set(flags)
    return tuple(dict.fromkeys(level for flag, level in _LEVELS.items() if flag in given))


def int8_trusted(host: Host, *, reduce_range: bool) -> bool:
    """Tell whether accuracy of a U8S8 model measured on `host` is what a correct device computes.

    x86 without VNNI or AMX multiplies u8 by s8 pairs into saturating 16-bit sums (`vpmaddubsw`), which is exact only
    when weights keep to 7 bits (`reduce_range`). Arm accumulates in 32 bits. An unknown machine is not trusted.
    """
    architecture = host.architecture.lower()
    if architecture in _X86:
        return reduce_range or not _EXACT_INT8.isdisjoint(host.isa)
    return architecture in _ARM


def _cpu_info(path: Path) -> tuple[str, list[str]]:
    """Model name and feature flags of the first core; empty where there is no such file (macOS, Windows)."""
    if not path.exists():
        return "", []
    fields: dict[str, str] = {}
    for line in path.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or fields.get("Model") or fields.get("Hardware") or ""
    return name, (fields.get("flags") or fields.get("Features") or "").split()
