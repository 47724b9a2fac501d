"""PyTorch's names without a public home, in one place.

What is only faster than a public way is used with the release that it was tried with (`known()`); any other takes the
public way. The others have no public twin; `pyproject.toml` holds PyTorch to releases that have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from torch._ops import OpOverload, OpOverloadPacket
else:
    OpOverload, OpOverloadPacket = type(torch.ops.aten.relu.default), type(torch.ops.aten.relu)

__all__ = ["OpOverload", "OpOverloadPacket", "TorchDispatchMode", "dtype_of", "known", "onnx_translator"]
__all__ += ["program_of_script", "tensors_in"]

_TRIED_WITH = (2, 14)


def known() -> bool:
    """Tell whether this PyTorch is of the release that the internals were tried with."""
    major, minor = torch.__version__.split(".")[:2]
    return (int(major), int(minor)) == _TRIED_WITH


def onnx_translator(
    opset: int, added: Mapping[OpOverload, Callable[..., object]]
) -> Callable[[torch.export.ExportedProgram], torch.onnx.ONNXProgram] | None:
    """The last step of `torch.onnx.export` alone, with functions for operators that ONNX has no own one for.

    Returns:
        None where this PyTorch has it elsewhere, or is not of the release; `torch.onnx.export` is the public way.
    """
    if not known():
        return None
    try:
        from torch.onnx._internal.exporter._core import _exported_program_to_onnx_program as step
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return None
    registry = ONNXRegistry.from_torchlib(opset)
    for operator, function in added.items():
        registry.register_op(operator, function)
    return lambda program: step(program, registry=registry)


def program_of_script(script: torch.jit.ScriptModule, images: torch.Tensor) -> torch.export.ExportedProgram:
    """A TorchScript program as `torch.export` would have captured it; raises whatever an unknown operator leads to."""
    from torch._export.converter import TS2EPConverter

    return TS2EPConverter(script, (images,), {}).convert()


def dtype_of(code: int) -> torch.dtype:
    """The type of numbers that a `.pt2` archive writes as `code`."""
    from torch._export.serde.schema import ScalarType
    from torch._export.serde.serialize import deserialize_scalar_type

    return deserialize_scalar_type(ScalarType(code))


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Every tensor in nested tuples, lists and mappings, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
