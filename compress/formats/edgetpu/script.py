"""`<stage>_compile.sh`, for the machine that has the compiler when this one has not."""

from __future__ import annotations

import shlex

from compress.formats.edgetpu.compiler import PROGRAM, VARIABLE, Options

__all__ = ["compile_script"]

_TEMPLATE = """\
#!/bin/sh
# Compile {model} for the Edge TPU. Needs edgetpu_compiler on x86-64 Linux:
# https://coral.ai/docs/edgetpu/compiler/ (or {variable}=/path/to/{program}).
set -eu
cd "$(dirname "$0")"
echo "{sha256}  {model}" | sha256sum -c -
"${{{variable}:-{program}}}" {arguments}
"""


def compile_script(model: str, sha256: str, options: Options) -> str:
    """A POSIX shell script that checks the file beside it and compiles it with the same options.

    Args:
        model: file name.
        sha256: of the file, in hex.
    """
    arguments = " ".join(shlex.quote(argument) for argument in options.arguments(model))
    return _TEMPLATE.format(
        model=shlex.quote(model), sha256=sha256, arguments=arguments, variable=VARIABLE, program=PROGRAM
    )
