"""Files compiled for the Edge TPU, run on one that is plugged in: pycoral where it is installed, else the delegate."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from compress.core.errors import DeviceMissing, StageError
from compress.formats.tflite.package import find_interpreter
from compress.formats.tflite.runtime import TfliteRunner
from compress.support.quiet import first_line, quiet_native

if TYPE_CHECKING:
    from pathlib import Path

    from compress.core.artifact import Artifact
    from compress.formats.tflite.package import Interpreter

__all__ = ["load"]

_LIBRARIES = {"linux": "libedgetpu.so.1", "darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"}
_INSTALL = "install the Edge TPU runtime (libedgetpu1-std, https://coral.ai/docs/accelerator/get-started/)"
_PLUG_IN = "plug the Edge TPU in and allow this user to open it (group plugdev or apex)"
_VERSIONS = re.compile(r"requires runtime version \((\d+)\).*this runtime version \((\d+)\)", re.DOTALL)


def load(artifact: Artifact, *, threads: int) -> TfliteRunner:
    """The file on the Edge TPU; operators it leaves to the CPU run on `threads` threads.

    Raises:
        DeviceMissing: there is no runtime library or no device here.
        StageError: the file was compiled for a newer runtime than is installed, or is not whole.
    """
    try:
        with quiet_native():
            interpreter, name = _interpreter(artifact.path, threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise _explained(error, artifact.path) from error
    return TfliteRunner(interpreter, name)


def _interpreter(path: Path, threads: int) -> tuple[Interpreter, str]:
    if "pycoral" in sys.modules or _installed("pycoral"):
        from importlib import metadata

        from pycoral.utils.edgetpu import list_edge_tpus, make_interpreter

        if not list_edge_tpus():
            raise DeviceMissing("no Edge TPU is connected to this machine", fix=_PLUG_IN)
        interpreter: Interpreter = make_interpreter(str(path))
        return interpreter, f"pycoral {metadata.version('pycoral')}"
    module, package = find_interpreter()
    library = _LIBRARIES.get(sys.platform, _LIBRARIES["linux"])
    try:
        delegate = module.load_delegate(library)
    except OSError as error:
        raise DeviceMissing(f"the Edge TPU runtime {library} is not installed", fix=_INSTALL) from error
    except ValueError as error:  # the library is there and finds no device
        raise DeviceMissing("no Edge TPU is connected to this machine", fix=_PLUG_IN) from error
    delegates = {"experimental_delegates": [delegate]}
    return module.Interpreter(model_path=str(path), num_threads=threads, **delegates), f"{package} with {library}"


def _installed(package: str) -> bool:
    from importlib import util

    return util.find_spec(package) is not None


def _explained(error: Exception, path: Path) -> StageError:
    versions = _VERSIONS.search(str(error))
    if versions:
        return StageError(
            f"{path.name} was compiled for Edge TPU runtime {versions[1]}, this machine has {versions[2]}",
            fix=f"update libedgetpu, or compile with stage.to_edgetpu.runtime={versions[2]}",
        )
    return StageError(f"the Edge TPU runtime cannot load {path}: {first_line(error)}", fix="compile the file again")
