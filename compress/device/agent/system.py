"""Facts that the system tells about itself: small files, tools and the processor's fields."""

import os
import subprocess
from typing import Dict, Optional


def read_text(path: str) -> Optional[str]:
    """A small file's text without trailing NUL and newline; None where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return stream.read(1 << 16).decode("utf-8", "replace").strip("\0\n ")
    except (OSError, IOError):
        return None


def read_number(path: str, scale: float = 1.0) -> Optional[float]:
    text = read_text(path)
    try:
        return None if text is None else float(text) / scale
    except ValueError:
        return None


def command_line(*command: str) -> Optional[str]:
    """First line that a system tool prints; None where it is absent or fails."""
    try:
        pipe = subprocess.PIPE
        done = subprocess.run(command, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def cpu_fields(root: str = "/") -> Dict[str, str]:
    """First value of every field of /proc/cpuinfo."""
    fields: Dict[str, str] = {}
    for line in (read_text(os.path.join(root, "proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields
