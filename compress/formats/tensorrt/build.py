"""Building an engine on this machine, with the very program that the device runs, in a process of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from compress.core.errors import StageError
from compress.support.child import run_child
from compress.support.plain_json import parse_json
from compress.support.reading import read_bytes

if TYPE_CHECKING:
    from compress.formats.tensorrt.plan import EnginePlan

__all__ = ["Built", "build_engine"]

_ROOT = Path(__file__).resolve().parents[2]
# `-c` looks for modules in the folder that the user is in first: that place is the package's own.
_PROGRAM = (
    "import sys; sys.path[0] = sys.argv.pop(1); "
    "from compress.device.agent.build_engine import main; sys.exit(main(sys.argv[1:]))"
)


@dataclass(frozen=True)
class Built:
    """Report of the builder.

    Attributes:
        layers: number of layers by precision, data movement apart.
    """

    tensorrt: str
    build_seconds: float
    layers: dict[str, int]


def build_engine(plan: EnginePlan, onnx: Path, engine: Path) -> Built:
    """Build `onnx` by `plan` into `engine`. A timing cache beside the engine makes later builds faster.

    Raises:
        StageError: the builder's own reason: the parser does not take a node, no kernel, no memory.
    """
    result = engine.with_name(engine.name + ".json")
    command = [sys.executable, "-c", _PROGRAM, str(_ROOT), *_arguments(plan), "--onnx", str(onnx)]
    done = run_child([*command, "--engine", str(engine), "--json", str(result)])
    if done.returncode != 0:
        raise StageError(_reason(done.stderr, done.returncode))
    try:
        return TypeAdapter(Built).validate_python(parse_json(read_bytes(result)))
    except (OSError, ValueError) as error:
        raise StageError(f"build_engine.py wrote something else than a result: {error}") from error


def _arguments(plan: EnginePlan) -> list[str]:
    arguments = ["--precision", plan.precision.value, "--batch", ",".join(str(size) for size in plan.batch)]
    arguments += ["--workspace-mib", str(plan.workspace_mib)]
    if plan.dla_core is not None:
        arguments += ["--dla-core", str(plan.dla_core)]
    return [*arguments, "--sparse"] if plan.sparse else arguments


def _reason(stderr: str, code: int) -> str:
    """The script's own line; a process that was killed has none."""
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    return lines[-1].removeprefix("error: ") if lines else f"building the engine ended with exit code {code}"
