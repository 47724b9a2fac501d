"""TorchScript files, converted to a graph of modules that every stage can work on.

TorchScript is no Python, but a program it stays: it can write files (`aten::save`), map them (`aten::from_file`), call
whatever operators are registered, and `__setstate__` runs while the file is loaded. Its source text lies in the
archive, so it is read before anything runs.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import torch
from torch import nn
from torch._export.converter import TS2EPConverter

from compress.errors import ModelError
from compress.models.aten_modules import with_modules
from compress.quiet import first_line, quiet
from compress.types import InputSpec

__all__ = ["load_torchscript"]

_DANGEROUS = re.compile(
    r"__setstate__|torch\.classes|\btorch\.(?:save|load|from_file)\b"
    r"|(?<![\w.])ops\.(?!prim\.|aten\.(?!save\b|from_file\b))[\w.]+"
)


def load_torchscript(path: Path, input: InputSpec) -> nn.Module:
    """The program as a module in eval mode; its layers are modules of their own.

    Raises:
        ModelError: damaged, doing more than computing, or using what cannot be converted.
    """
    content = path.read_bytes()
    _refuse_side_effects(content, path)
    try:
        script = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
    except RuntimeError as error:
        raise ModelError(
            f"model file {path} is damaged or not TorchScript: {first_line(error)}", fix="save it again with torch.jit"
        ) from error
    try:
        return with_modules(_converted(script, input))
    except Exception as error:  # the converter raises whatever the operator it does not know leads to
        raise ModelError(
            f"TorchScript file {path} cannot be converted for {input.shape}: {first_line(error)}",
            fix="check model.input.shape, or save the model as .pt2 with torch.export.save",
        ) from error


def _converted(script: torch.jit.ScriptModule, input: InputSpec) -> torch.fx.GraphModule:
    with quiet(), torch.no_grad():
        # two samples: export would treat a batch of one as a constant
        program = TS2EPConverter(script, (torch.zeros(2, *input.shape),), {}).convert()
        return program.module(check_guards=False)


def _refuse_side_effects(content: bytes, path: Path) -> None:
    """Read the code in the archive, with the reader that will load it, and refuse what is more than arithmetic."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        texts = [reader.get_record(name) for name in reader.get_all_records() if name.endswith((".py", ".pkl"))]
    except RuntimeError as error:
        raise ModelError(f"model file {path} is damaged: {first_line(error)}", fix="copy it again") from error
    for text in texts:
        found = _DANGEROUS.search(text.decode("utf-8", errors="replace"))
        if found:
            raise ModelError(
                f"TorchScript file {path} uses {found[0]!r}, which is more than computing and is never loaded",
                fix="save a network of ordinary operators, or use model=factory",
            )
