"""A board's own sshd on 127.0.0.1, with a key pair and a configuration to reach it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from emulate_pi.board import BOARDS, UserSpace, dress

__all__ = ["Server", "start"]

_START_SECONDS = 30.0
_HOST = "127.0.0.1"


@dataclass
class Server:
    """A running sshd; `process` is the outermost one, and everything inside ends with it.

    Attributes:
        config: for `ssh -F`; the board is called `pi` there, and its host key is known.
    """

    space: UserSpace
    board: str
    port: int
    config: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Kill the server and everything it runs, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again on the same port, with the same keys and files."""
        self.process = _spawn(self.space, self.board, self.port)
        _wait(self)


def start(space: UserSpace, board: str, folder: Path, port: int | None = None) -> Server:
    """Start a board's sshd; keys and logs go to `folder`.

    Raises:
        OSError: it does not come up: no user namespaces here, or a kernel before 6.7. Its last words are in the text.
    """
    dress(space, board)
    folder.mkdir(parents=True, exist_ok=True)
    port = port or _free_port()
    config = _keys(space, folder, port)
    server = Server(space, board, port, config, _spawn(space, board, port))
    _wait(server)
    return server


def _spawn(space: UserSpace, board: str, port: int) -> subprocess.Popen[bytes]:
    options = ["ListenAddress=" + _HOST, "UsePAM=no", "PasswordAuthentication=no", "PidFile=none", "StrictModes=no"]
    options.append(f"SetEnv=ORT_DISABLE_TELEMETRY=1 QEMU_CPU={BOARDS[board].cpu}")
    server = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", "/etc/ssh/ssh_host_ed25519_key", "-p", str(port)]
    inside = [*server, *(text for option in options for text in ("-o", option))]
    launcher = Path(__file__).with_name("namespace.py")
    with (space.folder / "sshd.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(launcher), str(space.root), str(space.qemu), BOARDS[board].cpu, *inside],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "ORT_DISABLE_TELEMETRY": "1"},
        )


def _keys(space: UserSpace, folder: Path, port: int) -> Path:
    """The host's key, the user's key, and a client configuration that knows both."""
    for key in (space.root / "etc/ssh/ssh_host_ed25519_key", folder / "id"):
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    host_key = (space.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    home = space.root / "home/pi"
    shutil.copy(folder / "id.pub", home / ".ssh/authorized_keys")
    if os.geteuid() == 0:
        for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
            os.chown(path, 1000, 1000)
    (folder / "known_hosts").write_text(f"[{_HOST}]:{port} {host_key}")
    config = folder / "ssh_config"
    lines = (f"HostName {_HOST}", f"Port {port}", "User pi", f"IdentityFile {folder / 'id'}", "IdentitiesOnly yes")
    config.write_text("\n  ".join(("Host pi", *lines, f"UserKnownHostsFile {folder / 'known_hosts'}")) + "\n")
    return config


def _wait(server: Server) -> None:
    """Until it greets."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            with socket.create_connection((_HOST, server.port), timeout=5) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:  # noqa: PERF203  that is what the loop waits out
            time.sleep(0.2)
    server.stop()
    log = (server.space.folder / "sshd.log").read_text(errors="replace").strip().splitlines()
    raise OSError(f"the emulated board's sshd does not start: {log[-1] if log else 'no word from it'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
