"""The Edge TPU compiler as a child process: found, run under a time limit, its output kept.

It is closed source, for x86-64 Debian, last released as 16.0.384591198 (https://coral.ai/docs/edgetpu/compiler/).
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from compress.core.errors import ConfigError, StageError
from compress.formats.edgetpu.log import CompilerLog, parse_log
from compress.support.child import find_program, run_child

__all__ = ["Compiled", "Compiler", "Options", "compile_model", "find_compiler"]

VARIABLE = "EDGETPU_COMPILER"
PROGRAM = "edgetpu_compiler"
_DOCKER = "docker:"
_SHOWN_CHARACTERS = 400  # of a failed compiler's output: its last words
_GRACE_SECONDS = 10.0  # the compiler has a timer of its own; ours is for when that does not fire


@dataclass(frozen=True)
class Compiler:
    """Means of starting the compiler.

    Attributes:
        program: a path, or None for the one inside `image`.
        image: a Docker image that has it.
    """

    program: str | None
    image: str | None = None

    def command(self, folder: Path, arguments: list[str]) -> list[str]:
        """The argument vector to compile inside `folder`."""
        if self.image is None:
            return [self.program or PROGRAM, *arguments]
        mount = f"{folder.resolve()}:/work"
        # With an init process, the container ends when `docker run` is told to end.
        return [
            "docker",
            "run",
            "--rm",
            "--network=none",
            "--init",
            "-v",
            mount,
            "-w",
            "/work",
            self.image,
            PROGRAM,
            *arguments,
        ]


@dataclass(frozen=True)
class Options:
    """Options of one compilation.

    Attributes:
        runtime: oldest Edge TPU runtime the file must run on (`-m`).
        segments: parts for a pipeline of several Edge TPUs (`--num_segments`).
        timeout_seconds: of the compilation (`-t`).
    """

    runtime: int
    segments: int
    timeout_seconds: int

    def arguments(self, model: str) -> list[str]:
        flags = ["-s", "-m", str(self.runtime), "-t", str(self.timeout_seconds)]
        return [*flags, *(["--num_segments", str(self.segments)] if self.segments > 1 else []), model]


@dataclass(frozen=True)
class Compiled:
    """The files that came out, in segment order, and what the compiler said."""

    paths: tuple[Path, ...]
    log: CompilerLog


def find_compiler() -> Compiler | None:
    """The compiler named by `EDGETPU_COMPILER` (a path, or `docker:<image>`), else the one on the PATH; None if none.

    Raises:
        ConfigError: the variable names something that is not there.
    """
    named = os.environ.get(VARIABLE)
    if named and named.startswith(_DOCKER):
        if find_program("docker") is None:
            raise ConfigError(f"{VARIABLE}={named} needs docker on the PATH", fix=f"install docker or unset {VARIABLE}")
        return Compiler(None, named.removeprefix(_DOCKER))
    if named:
        program = find_program(named)
        if program is None:
            raise ConfigError(f"{VARIABLE}={named} is not a program", fix=f"{VARIABLE}=/path/to/{PROGRAM}")
        return Compiler(str(Path(program).absolute()))  # it is started in another folder
    on_path = find_program(PROGRAM)
    return Compiler(str(Path(on_path).absolute())) if on_path else None


def compile_model(compiler: Compiler, model: Path, options: Options) -> Compiled:
    """Compile `model` beside itself.

    Raises:
        StageError: the compiler crashed, ran past its time, or wrote no file; shows its last output.
    """
    output = _run(compiler.command(model.parent, options.arguments(model.name)), model.parent, options)
    paths = tuple(sorted(model.parent.glob(f"{model.stem}_*edgetpu.tflite")))
    if len(paths) != options.segments:
        raise StageError(
            f"the Edge TPU compiler wrote {len(paths)} of {options.segments} file(s): {_tail(output)}",
            fix=f"read what it says; by hand: {PROGRAM} {' '.join(options.arguments(model.name))}",
        )
    logs = sorted(model.parent.glob(f"{model.stem}_*edgetpu.log"))
    table = "" if _has_table(output) else "\n".join(path.read_text(errors="replace") for path in logs)
    return Compiled(paths, parse_log(f"{output}\n{table}"))


def _has_table(output: str) -> bool:
    return bool(parse_log(output).rows)


def _run(command: list[str], folder: Path, options: Options) -> str:
    """Standard output and error together."""
    try:
        done = run_child(command, cwd=folder, timeout=options.timeout_seconds + _GRACE_SECONDS, merged=True)
    except OSError as error:
        raise StageError(f"the Edge TPU compiler cannot be started: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise StageError(
            f"the Edge TPU compiler ran longer than {options.timeout_seconds} s: {_tail(str(error.output or ''))}",
            fix="raise timeout_seconds, or compile on a faster machine",
        ) from error
    if done.returncode != 0:
        raise StageError(f"the Edge TPU compiler failed (exit {done.returncode}): {_tail(done.stdout)}")
    return done.stdout


def _tail(output: str) -> str:
    """The last words on one line."""
    text = " / ".join(line.strip() for line in output.splitlines() if line.strip())
    return f"...{text[-_SHOWN_CHARACTERS:]}" if len(text) > _SHOWN_CHARACTERS else text or "it said nothing"
