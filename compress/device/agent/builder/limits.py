"""Limits of this GPU and this TensorRT, and the memory that a build takes."""

import re
from typing import Any, Optional, Sequence

from ..system import read_text
from ..values import Json, Problem
from ..versions import version_numbers

MIB = 1 << 20
# What a build needs besides its workspace: CUDA context, TensorRT's own libraries and kernels. A Jetson Nano with 4 GB
# and a desktop running is where this bites.
BASE_MIB = 700
SMALLEST_WORKSPACE, LARGEST_WORKSPACE = 64 * MIB, 1024 * MIB
# onnx-tensorrt docs/operators.md by release: the newest opset that its parser reads. Others are asked, not refused.
NEWEST_OPSET = {(8, 0): 13, (8, 2): 13, (8, 5): 17, (8, 6): 17}
ADD_SWAP = (
    "add swap: sudo fallocate -l 4G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile "
    "&& sudo swapon /swapfile"
)


def require_version(tensorrt: Any, manifest: Json, any_device: bool) -> Optional[str]:
    """Refuse a parser that is too old for the files; a remark about any other difference."""
    found = version_numbers(tensorrt.__version__)
    newest = NEWEST_OPSET.get((found[0], found[1]))
    for model in manifest["models"]:
        if newest and (model.get("opset") or 0) > newest and not any_device:
            reason = "TensorRT %s reads ONNX up to opset %d, %s has %d" % (
                tensorrt.__version__,
                newest,
                model["path"],
                model["opset"],
            )
            raise Problem(reason, "export again with stage.%s.opset=%d" % (model["stage"], newest), 2)
    wanted = re.search(r"TensorRT (\d+(?:\.\d+)*)", manifest["device"]["runtime"])
    if wanted and version_numbers(wanted.group(1))[:2] != found[:2]:
        return "this bundle expects %s, here is TensorRT %s" % (manifest["device"]["runtime"], tensorrt.__version__)
    return None


def int8_refusal(capability: Sequence[int]) -> Optional[str]:
    """Say why this GPU cannot multiply 8-bit integers (MathWorks datatypetensorrt); None if it can."""
    if tuple(capability) == (6, 1) or tuple(capability) >= (7, 0):
        return None
    return "INT8 needs compute capability 6.1 or at least 7.0, this GPU has %d.%d" % tuple(capability[:2])


def fp16_refusal(capability: Sequence[int]) -> Optional[str]:
    if tuple(capability) == (5, 3) or tuple(capability) >= (6, 0):
        return None
    return "FP16 needs compute capability 5.3 or at least 6.0, this GPU has %d.%d" % tuple(capability[:2])


def refusal(precision: str, gpu: Json) -> Optional[str]:
    """Say why this GPU cannot compute in a precision; None if it can."""
    rules = {"int8": int8_refusal, "fp16": fp16_refusal}
    return rules[precision](gpu["capability"]) if precision in rules else None


def available_bytes() -> Optional[int]:
    """Memory that a build can take, swap included; None where the system does not tell."""
    text = read_text("/proc/meminfo") or ""
    found = [re.search(name + r":\s+(\d+) kB", text) for name in ("MemAvailable", "SwapFree")]
    return sum(int(match.group(1)) * 1024 for match in found if match) if found[0] else None


def choose_workspace(asked_mib: Optional[int], free: int) -> int:
    """A quarter of the free GPU memory, between 64 MiB and 1 GiB: a Jetson's is shared with everything else."""
    return asked_mib * MIB if asked_mib else max(SMALLEST_WORKSPACE, min(LARGEST_WORKSPACE, free // 4))


def require_memory(workspace: int, model_bytes: int) -> None:
    """The builder keeps the weights several times: as read, per precision tried, and in the engine."""
    needed, free = BASE_MIB * MIB + workspace + 4 * model_bytes, available_bytes()
    if free is not None and free < needed:
        reason = "building needs about %d MiB, %d MiB are free (swap included)" % (needed // MIB, free // MIB)
        raise Problem(reason, "close the desktop (sudo systemctl isolate multi-user.target), or %s" % ADD_SWAP, 2)
