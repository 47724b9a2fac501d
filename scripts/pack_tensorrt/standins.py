"""Stand-ins for CUDA libraries that TensorRT 8's plugin library is linked to but convolution networks never call."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

NOT_SUPPORTED = 15  # CUBLAS_STATUS_NOT_SUPPORTED; for cuDNN any number but 0 is a failure too
_NEEDED = re.compile(r" U (\w+)@(lib(?:cublas|cublasLt|cudnn)\.so\.\d+)$", re.MULTILINE)


def build_standins(library: Path, folder: Path) -> dict[str, int]:
    """Build, into `folder`, one library for each that `library` lacks; their names, with how many functions each has.

    Every function returns an error, so a network that needs one fails with TensorRT's own message instead of computing
    nonsense. Limit the builder's tactic sources to those that do not call them.
    """
    symbols = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True)
    wanted: dict[str, list[str]] = {}
    for function, name in _NEEDED.findall(symbols.stdout):
        wanted.setdefault(name, []).append(function)
    for name, functions in wanted.items():
        _build(name, functions, folder)
    return {name: len(functions) for name, functions in wanted.items()}


def _build(name: str, functions: list[str], folder: Path) -> None:
    source, versions = folder / f"{name}.c", folder / f"{name}.map"
    bodies = [f"{_body(function)}\n" for function in functions]
    source.write_text("".join(bodies))
    versions.write_text(f"{name} {{ global: {'; '.join(functions)}; local: *; }};\n")
    flags = ["-shared", "-fPIC", "-O1", f"-Wl,-soname,{name}", f"-Wl,--version-script={versions}"]
    subprocess.run(["gcc", *flags, "-o", str(folder / name), str(source)], check=True)
    source.unlink()
    versions.unlink()


def _body(function: str) -> str:
    if function == "cudnnGetErrorString":
        return f'const char *{function}(void) {{ return "a stand-in for cuDNN was called"; }}'
    return f"int {function}(void) {{ return {NOT_SUPPORTED}; }}"
