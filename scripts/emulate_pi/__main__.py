"""Emulated boards from the command line.

    python scripts/emulate_pi [--board raspberry_pi_5] run script.py args...    # the board's Python, the host's files
    python scripts/emulate_pi [--board raspberry_pi_4] [--port 2222] sshd       # until Ctrl-C; ssh -F <printed> pi

The user space is built on first use, below the user's cache folder (about 350 MB).
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
sys.path.append(str(Path(__file__).resolve().parents[2]))

from platformdirs import user_cache_path  # noqa: E402

from compress.config.schema import load_target  # noqa: E402
from compress.core.artifact import Format  # noqa: E402
from emulate_pi.board import BOARDS, UserSpace, build, dress  # noqa: E402
from emulate_pi.server import start  # noqa: E402


def user_space(folder: Path | None = None) -> UserSpace:
    """The boards' user space with ONNX Runtime as pinned for the Raspberry Pi 4; built if it is not there."""
    wheels = load_target("raspberry_pi_4", []).deployment[Format.ONNX].packages
    return build(folder or user_cache_path("edge-compress") / "emulated-pi", wheels)


def main() -> int:
    """Run the command line; the exit code of what runs on the board."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("build", "run", "sshd"))
    parser.add_argument("--board", choices=sorted(BOARDS), default="raspberry_pi_4")
    parser.add_argument("--folder", type=Path, help="where the user space is kept")
    parser.add_argument("--port", type=int, help="of sshd; default: a free one")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    space = user_space(options.folder)
    if options.action == "run":
        dress(space, options.board)
        return subprocess.run(space.python(options.board, *options.arguments), check=False).returncode
    if options.action == "sshd":
        return _serve(space, options.board, options.port)
    print(space.folder)
    return 0


def _serve(space: UserSpace, board: str, port: int | None) -> int:
    server = start(space, board, space.folder / "client", port)
    print(f"ssh -F {server.config} pi        (Ctrl-C ends it)", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server.process.wait()
    except KeyboardInterrupt:
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
