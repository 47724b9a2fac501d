"""Frame of every command of this package around its work: one line and the right exit code, however it ends."""

from __future__ import annotations

import errno
import importlib.util
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from compress.core.errors import CompressError, ConfigError
from compress.support.child import child_environment
from compress.support.signals import INTERRUPTED, Terminated, interrupted, orderly_exit

__all__ = ["INTERRUPTED", "fail", "require_memory_for", "run_command"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE})
"""What a write fails with when nothing is wrong with what is written."""
_PROBE_SECONDS = 300.0


def run_command(work: Callable[[], int], last_word: str = "") -> int:
    """Run `work` and return its exit code, or that of how it ended: 1 or 2 for an error (`CompressError.exit_code`),
    130 interrupted, 143 terminated.

    Args:
        last_word: what is added to "interrupted" and "terminated".
    """
    try:
        with orderly_exit():
            try:
                Path.cwd()
            except OSError as error:
                raise ConfigError("the working folder was deleted", fix="cd to a folder that exists") from error
            code = work()
            sys.stdout.flush()
            return code
    except CompressError as error:
        return fail(error)
    except Terminated as end:
        _say(f"terminated{last_word}")
        return int(end.code or 0)
    except KeyboardInterrupt:
        _say(f"interrupted{last_word}")
        return INTERRUPTED
    except MemoryError as error:
        return fail(CompressError("out of memory", fix="a smaller model or fewer images; see ulimit -v"), error)
    except Exception as error:
        if interrupted():  # inside an import, a library made another error of it
            _say(f"interrupted{last_word}")
            return INTERRUPTED
        if isinstance(error, OSError) and error.errno in _FULL:
            return _cannot_print(error)
        raise


def fail(error: CompressError, cause: BaseException | None = None) -> int:
    """Print one line for the user, and the traceback for those who ask for it; the exit code."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(cause or error)
    _say(f"error: {error}")
    return error.exit_code


def require_memory_for(*modules: str) -> None:
    """See in a child whether these modules can be imported where the address space is limited (`ulimit -v`).

    Libraries end the process when they get no memory while they are loaded, and no handler here would see it.

    Raises:
        CompressError: they cannot.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or all(module in sys.modules for module in modules):
        return
    # `-c` puts the working folder first; what is imported there is what we would import
    script = (
        f"import sys; sys.path = {sys.path!r}\nimport importlib\nfor name in {modules!r}: importlib.import_module(name)"
    )
    command = [sys.executable, "-c", script]
    try:
        done = subprocess.run(  # noqa: S603  ourselves
            command, capture_output=True, timeout=_PROBE_SECONDS, check=False, env=child_environment()
        )
        enough = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        enough = False
    if not enough and all(importlib.util.find_spec(module) for module in modules):
        raise CompressError(
            f"the address space is limited to {limit / 2**30:.1f} GiB (ulimit -v), and {' and '.join(modules)} "
            "cannot be loaded in it",
            fix="ulimit -v unlimited; to limit memory, use a control group (systemd-run -p MemoryMax=...)",
        )


def _cannot_print(error: OSError) -> int:
    """Standard output takes nothing more. What is still in its buffer is let go, or Python complains at its end."""
    named = f" {error.filename}" if error.filename else ": standard output"
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if error.errno != errno.EPIPE:  # who closed the pipe knows
        _say(f"error: cannot write{named}: {error.strerror} | fix: free disk space")
    return 1


def _say(text: str) -> None:
    with suppress(OSError, ValueError):  # the terminal may be gone, which is why we end
        print(text, file=sys.stderr, flush=True)
