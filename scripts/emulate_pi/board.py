"""Build the boards' user space once, and run programs in it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from emulate_pi.debian import closure, fetch, read_index, unpack

__all__ = ["BOARDS", "Board", "UserSpace", "build", "dress", "for_the_board", "pip_for_the_board"]

PYTHON = "3.11"
_PACKAGES = ("dash", "coreutils", "openssh-server", f"python{PYTHON}-minimal", f"python{PYTHON}-venv")
_LIBRARIES = ("libstdc++6", "libgomp1")  # what the wheels link to
_UNUSED = frozenset(
    {"adduser", "debconf", "debconf-2.0", "dpkg", "init-system-helpers", "lsb-base", "openssh-client", "passwd"}
    | {"openssh-sftp-server", "perl-base", "procps", "runit-helper", "sysvinit-utils", "ucf", "tar", "media-types"}
)
"""What maintainer scripts need; none is run."""

_QEMU_CPU_PARTS = {"cortex-a72": "0xd08", "cortex-a76": "0xd0b"}  # Arm Cortex-A72 and A76 TRM, MIDR_EL1
_CORES = 4


@dataclass(frozen=True)
class Board:
    """What a board shows of itself; `flags` are those of its /proc/cpuinfo."""

    cpu: str
    model: str
    megahertz: int
    flags: str


BOARDS = {
    "raspberry_pi_4": Board("cortex-a72", "Raspberry Pi 4 Model B Rev 1.4", 1800, "fp asimd evtstrm crc32 cpuid"),
    "raspberry_pi_5": Board(
        "cortex-a76",
        "Raspberry Pi 5 Model B Rev 1.0",
        2400,
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}


@dataclass(frozen=True)
class UserSpace:
    """A built user space: `folder/root` and the emulator beside it."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def qemu(self) -> Path:
        return self.folder / "qemu-aarch64-static"

    @property
    def site(self) -> Path:
        """Where the aarch64 wheels are."""
        return self.root / f"usr/local/lib/python{PYTHON}/dist-packages"

    def python(self, board: str, *arguments: str) -> list[str]:
        """The command line that runs the board's Python on `arguments`, with the host's files."""
        options = ["-cpu", BOARDS[board].cpu, "-L", str(self.root)]
        for name, value in (("PYTHONPATH", str(self.site)), ("ORT_DISABLE_TELEMETRY", "1"), ("LC_ALL", "C.UTF-8")):
            options += ["-E", f"{name}={value}"]
        return [str(self.qemu), *options, str(self.root / f"usr/bin/python{PYTHON}"), *arguments]


def build(folder: Path, wheels: Sequence[str]) -> UserSpace:
    """Fetch and lay out the user space; one that is there with the same content is kept.

    Args:
        wheels: pinned requirements, installed for aarch64.

    Raises:
        OSError: a registry cannot be reached.
        subprocess.CalledProcessError: pip cannot fetch the wheels; its output is in `stderr`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test processes start together, and two builds would lay the same files
        return _built(UserSpace(folder), wheels)


def _built(space: UserSpace, wheels: Sequence[str]) -> UserSpace:
    stamp = space.folder / "built"
    content = hashlib.sha256(repr((_PACKAGES, _LIBRARIES, sorted(wheels))).encode() + _own_source()).hexdigest()
    if stamp.is_file() and stamp.read_text() == content:
        return space
    if space.folder.exists():
        shutil.rmtree(space.folder)
    _lay_links(space.root)
    with ThreadPoolExecutor(4) as pool:
        emulator = pool.submit(_fetch_qemu, space)
        fetched = pool.submit(_fetch_wheels, space, wheels)
        packages = closure(read_index("arm64"), (*_PACKAGES, *_LIBRARIES), _UNUSED)
        for archive in pool.map(fetch, packages):
            unpack(archive, space.root)
        emulator.result()
        fetched.result()
    _finish(space.root)
    _compile(space)
    stamp.write_text(content)
    return space


def dress(space: UserSpace, name: str) -> None:
    """Give the user space the /proc and /sys files of a board: once for qemu's -L, once to be mounted."""
    board = BOARDS[name]
    for top in (space.root, space.root / ".board"):
        _write(top / "proc/cpuinfo", _cpuinfo(board))
        _write(top / "proc/device-tree/model", board.model + "\0")
        _write(top / "sys/class/thermal/thermal_zone0/temp", "45000")
        for name_ in ("possible", "present", "online"):
            _write(top / f"sys/devices/system/cpu/{name_}", f"0-{_CORES - 1}")
        for core in range(_CORES):
            _dress_core(top / f"sys/devices/system/cpu/cpu{core}", core, board)


def _dress_core(folder: Path, core: int, board: Board) -> None:
    everyone = f"0-{_CORES - 1}"
    files = {
        "cpufreq/cpuinfo_max_freq": board.megahertz * 1000,
        "cpufreq/cpuinfo_min_freq": 600000,
        "cpufreq/scaling_cur_freq": board.megahertz * 1000,
        "cpufreq/scaling_governor": "ondemand",
        "topology/physical_package_id": 0,
        "topology/core_id": core,
        "topology/core_siblings_list": everyone,
        "topology/cluster_cpus_list": everyone,
    }
    caches = ((1, "Data", "32K", core), (1, "Instruction", "48K", core), (2, "Unified", "1024K", everyone))
    for index, (level, kind, size, shared) in enumerate(caches):
        of_cache = {"level": level, "type": kind, "size": size, "shared_cpu_list": shared}
        files.update({f"cache/index{index}/{key}": value for key, value in of_cache.items()})
    for path, value in files.items():
        _write(folder / path, str(value))


def _cpuinfo(board: Board) -> str:
    fields = {
        "BogoMIPS": "108.00",
        "Features": board.flags,
        "CPU implementer": "0x41",
        "CPU architecture": "8",
        "CPU variant": "0x0",
        "CPU part": _QEMU_CPU_PARTS[board.cpu],
        "CPU revision": "3",
    }
    text = "".join(f"{name}\t: {value}\n" for name, value in fields.items())
    cores = "".join(f"processor\t: {core}\n{text}\n" for core in range(_CORES))
    return f"{cores}Revision\t: d03114\nModel\t\t: {board.model}\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _own_source() -> bytes:
    """What decides how the user space is laid out."""
    return b"".join(Path(__file__).with_name(name).read_bytes() for name in ("board.py", "debian.py"))


def _lay_links(root: Path) -> None:
    """The merged /usr layout, before anything is unpacked into it."""
    for name in ("bin", "sbin", "lib"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")


def _fetch_qemu(space: UserSpace) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    scratch = space.folder / "host"
    unpack(fetch(read_index(machine)["qemu-user-static"]), scratch)
    (scratch / "usr/bin/qemu-aarch64-static").rename(space.qemu)
    shutil.rmtree(scratch)


def for_the_board(wheels: Sequence[str]) -> list[str]:
    """The requirements that hold for the board's Python. Asked for another one, pip still judges them by its own."""
    wanted = map(Requirement, wheels)
    return [
        f"{one.name}{one.specifier}"
        for one in wanted
        if one.marker is None or one.marker.evaluate({"python_version": PYTHON})
    ]


def pip_for_the_board(action: str, *arguments: str) -> None:
    """Let this machine's pip fetch (`download`) or lay out (`install`) wheels that the board's would take.

    Raises:
        subprocess.CalledProcessError: pip cannot; its output is in `stderr`.
    """
    platforms = ("2014", *(f"_2_{minor}" for minor in (17, 27, 28, 31, 34, 35, 36)))
    only = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", "--abi=cp311", "--abi=abi3"]
    only += ["--abi=none", *(f"--platform=manylinux{name}_aarch64" for name in platforms)]
    command = [sys.executable, "-m", "pip", action, "--quiet", "--no-deps", *only, *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)


def _fetch_wheels(space: UserSpace, wheels: Sequence[str]) -> None:
    pip_for_the_board("install", "--no-compile", "--target", str(space.site), *for_the_board(wheels))


def _compile(space: UserSpace) -> None:
    """Import once what a benchmark imports: compiling it anew each time, emulated, would take most of a test."""
    modules = "argparse, ctypes, fcntl, hashlib, json, numpy, onnxruntime, platform, subprocess, traceback, typing"
    dress(space, "raspberry_pi_4")  # on the host's /proc/cpuinfo, an aarch64 ONNX Runtime crashes
    command = space.python("raspberry_pi_4", "-c", f"import {modules}")
    subprocess.run(command, check=True, capture_output=True, text=True)


def _finish(root: Path) -> None:
    """What maintainer scripts would have made: /bin/sh, users, empty folders."""
    shell = root / "usr/bin/sh"
    if not shell.is_symlink():
        shell.symlink_to("dash")
    python = root / "usr/bin/python3"
    if not python.exists():
        python.symlink_to(f"python{PYTHON}")
    users = "root:x:0:0:root:/root:/bin/sh\npi:x:1000:1000::/home/pi:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n"
    _write(root / "etc/passwd", users)
    _write(root / "etc/group", "root:x:0:\npi:x:1000:\nnogroup:x:65534:\n")
    _write(root / "etc/shadow", "root:*:19000::::::\npi:*:19000::::::\nsshd:!:19000::::::\n")
    for name in ("proc", "sys", "dev", "run/sshd", "root", "tmp", "home/pi/.ssh", "etc/ssh"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
