#!/usr/bin/env python3
"""Run a program of the user space as if on the board: `namespace.py ROOT QEMU CPU COMMAND...`.

In user, mount, process and host-name namespaces of its own (namespaces(7)), where the kernel hands aarch64 programs to
qemu: binfmt_misc belongs to the user namespace since Linux 6.7, so nothing is registered on the host and no root is
needed. Started by root, all users exist inside; started by a user, that user is `pi` inside, the only one. Everything
inside ends with this process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 1 << 18  # mount(2)
_NEW_NAMESPACES = 0x20000 | 0x4000000 | 0x10000000 | 0x20000000  # CLONE_NEWNS, NEWUTS, NEWUSER, NEWPID
_PR_SET_PDEATHSIG = 1  # prctl(2)
_PI = 1000
# ELF, 64 bit, little-endian, machine 183 (elf(5)); flags F and P: open the interpreter now, keep argv[0].
_MAGIC = rb"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments):
        sys.exit(f"{name}{arguments}: {os.strerror(ctypes.get_errno())}")


def _mount(source: str, target: Path, kind: str | None = None, flags: int = 0) -> None:
    _call("mount", source.encode(), bytes(target), kind and kind.encode(), ctypes.c_ulong(flags), None)


def _die_with_parent() -> None:
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)


def _enter(root: Path, qemu: str) -> None:
    """Mount what a board has and make `root` the root; as the first process of its namespace."""
    _mount("none", Path("/"), None, _MS_REC | _MS_PRIVATE)
    _mount("none", Path("/proc/sys/fs/binfmt_misc"), "binfmt_misc")
    with Path("/proc/sys/fs/binfmt_misc/register").open("wb", 0) as register:
        register.write(b":qemu-aarch64:M::" + _MAGIC + b":" + _MASK + b":" + qemu.encode() + b":FP")
    _call("sethostname", b"raspberrypi", len(b"raspberrypi"))
    (root / "dev").mkdir(exist_ok=True)
    for name in ("null", "zero", "urandom", "random", "full", "tty"):
        (root / "dev" / name).touch()
        _mount(f"/dev/{name}", root / "dev" / name, None, _MS_BIND)
    _mount("proc", root / "proc", "proc")
    _mount(str(root / ".board/proc/cpuinfo"), root / "proc/cpuinfo", None, _MS_BIND)
    _mount(str(root / ".board/sys"), root / "sys", None, _MS_BIND)
    os.chroot(root)
    os.chdir("/")


def _inside(root: Path, qemu: str, command: list[str], ready: int, mapped: int, user: int) -> None:
    """The child: new namespaces, then a process in them that becomes the command."""
    _call("unshare", _NEW_NAMESPACES)
    os.write(ready, b"x")
    os.read(mapped, 1)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user) if user == 0 else None
    _die_with_parent()
    process = os.fork()
    if process:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) & 255)
    _die_with_parent()
    _enter(root, qemu)
    os.execvp(command[0], command)


def _map_ids(process: int, user: int) -> None:
    """Root's children see all ids; a user's see one, theirs, under the name of `user`."""
    outside, count = os.geteuid(), 65536 if os.geteuid() == 0 else 1
    if outside:
        Path(f"/proc/{process}/setgroups").write_text("deny")
    Path(f"/proc/{process}/uid_map").write_text(f"{user} {outside} {count}")
    Path(f"/proc/{process}/gid_map").write_text(f"{user} {os.getegid()} {count}")


def main(arguments: list[str]) -> int:
    """Run the command inside; its exit code."""
    root, qemu, cpu, *command = arguments
    os.environ["QEMU_CPU"] = cpu
    user = 0 if os.geteuid() == 0 else _PI
    ready, mapped = os.pipe(), os.pipe()
    process = os.fork()
    if process == 0:
        _inside(Path(root).resolve(), qemu, command, ready[1], mapped[0], user)
    os.close(ready[1])
    if not os.read(ready[0], 1):  # the child gave up and said why
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) & 255
    _map_ids(process, user)
    os.write(mapped[1], b"x")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) & 255


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
