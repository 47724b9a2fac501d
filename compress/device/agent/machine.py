"""Facts about this device that do not change while measuring, and whether a bundle is for it."""

import os
import platform
import re
from typing import Optional

from .system import command_line, cpu_fields, read_text
from .values import Json, Problem


def emulation() -> Optional[str]:
    """Name what imitates this CPU, or None. qemu-user shows its program in /proc/self/exe, itself in thread-self."""
    try:
        executable = os.readlink("/proc/thread-self/exe")
    except OSError:
        executable = ""
    name = os.path.basename(executable)
    if name.startswith("qemu"):
        return "%s -cpu %s" % (name, os.environ.get("QEMU_CPU", "as given"))
    machine = "%s %s" % (read_text("/sys/class/dmi/id/sys_vendor"), read_text("/sys/class/dmi/id/product_name"))
    return "qemu-system" if "QEMU" in machine and "hypervisor" not in cpu_fields().get("flags", "hypervisor") else None


def describe_device(root: str = "/") -> Json:
    """Facts that do not change while measuring."""
    fields = cpu_fields(root)
    model = read_text(os.path.join(root, "proc/device-tree/model")) or fields.get("Model")
    flags = (fields.get("Features") or fields.get("flags") or "").split()
    memory = re.search(r"MemTotal:\s+(\d+) kB", read_text(os.path.join(root, "proc/meminfo")) or "")
    return {
        "model": model or fields.get("model name") or platform.machine(),
        "cpu": fields.get("model name") or fields.get("CPU part") or platform.machine(),
        "architecture": platform.machine(),
        "cpu_flags": flags,
        "virtual_machine": "hypervisor" in flags,
        "emulated": emulation(),
        "cores": cores(),
        "memory_bytes": int(memory.group(1)) * 1024 if memory else None,
        "system": "%s %s" % (platform.system(), platform.release()),
        "python": platform.python_version(),
        "l4t": read_text(os.path.join(root, "etc/nv_tegra_release")),
        "power_mode": command_line("nvpmodel", "-q"),
    }


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_device(manifest: Json, device: Json, any_device: bool) -> None:
    """Refuse another architecture: the pinned requirements and the numbers would be another device's."""
    wanted = manifest["device"]["architecture"]
    if device["architecture"] != wanted and not any_device:
        raise Problem(
            "this bundle is for %s (%s), this machine is %s" % (manifest["target"], wanted, device["architecture"]),
            "make a bundle for this device, or --any-device to run it here anyway",
            2,
        )


def require_flags(model: Json, device: Json) -> None:
    """Answer in words where the CPU would answer with SIGILL."""
    needed = model.get("cpu_flags", {}).get(device["architecture"], [])
    missing = [flag for flag in needed if device["cpu_flags"] and flag not in device["cpu_flags"]]
    if missing:
        raise Problem(
            "%s needs the CPU feature %s, which %s lacks" % (model["path"], ", ".join(missing), device["model"]),
            "export this model for a CPU without it",
        )


def boot() -> Optional[str]:
    return read_text("/proc/sys/kernel/random/boot_id")


def resident_bytes(field: str) -> Optional[int]:
    """Resident memory of this process by its field of /proc/self/status (proc(5)); None elsewhere."""
    found = re.search(field + r":\s+(\d+) kB", read_text("/proc/self/status") or "")
    return int(found.group(1)) * 1024 if found else None
