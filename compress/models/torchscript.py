"""TorchScript files, converted to a graph of modules that every stage can work on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from compress.core.artifact import InputSpec
from compress.core.errors import ModelError
from compress.formats.torchscript.script_file import load_script
from compress.models.aten_modules import with_modules
from compress.support.quiet import first_line, quiet
from compress.support.torch_internals import program_of_script

__all__ = ["load_torchscript"]


def load_torchscript(path: Path, input: InputSpec) -> nn.Module:
    """The program as a module in eval mode; its layers are modules of their own.

    Raises:
        ModelError: damaged, doing more than computing, or using what cannot be converted.
    """
    script = load_script(path)
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
        program = program_of_script(script, torch.zeros(2, *input.shape))
        return program.module(check_guards=False)
