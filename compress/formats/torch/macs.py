"""Multiply-accumulates that PyTorch dispatches for one sample; zeros and additions are not discounted."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np

from compress.formats.base import NotMeasured

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compress.core.artifact import InputSpec
    from compress.formats.runner import Runner

__all__ = ["dispatched_macs", "torch_macs"]

_FLOPS_PER_MAC = 2  # torch.utils.flop_counter counts a multiply and an add


def dispatched_macs(run: Runner, spec: InputSpec) -> int:
    """Count for one sample of `spec`; raises as `torch_macs`."""
    return torch_macs(run, np.zeros((1, *spec.shape), np.float32))


def torch_macs(run: Runner, image: NDArray[np.float32]) -> int:
    """Count what PyTorch dispatches while `run` handles `image` `[1, C, H, W]`; for modules and TorchScript.

    Calls are counted without asking which module makes them: PyTorch's tracker of modules stumbles over a parameter
    that is handed to a module as an argument (learned queries, parametrized weights).

    Raises:
        NotMeasured: PyTorch cannot run the model under its counter.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _OneModule()  # type: ignore[assignment]  # all that the counter asks of a tracker
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter knows no fused attention operator of the CPU
    try:
        with sdpa_kernel(SDPBackend.MATH), counter:
            run(image)
    except RuntimeError as error:
        raise NotMeasured(f"PyTorch's counter cannot run the model: {str(error).splitlines()[0]}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops()) // _FLOPS_PER_MAC


class _OneModule(AbstractContextManager["_OneModule", None]):
    """Stands in for PyTorch's tracker: every call belongs to the whole."""

    parents = frozenset({"Global"})

    def __exit__(self, *exception: object) -> None: ...
