"""The Edge TPU as LiteRT's delegate."""

from typing import Any, Tuple

from ..values import Problem
from ..versions import missing_runtime, package_version


def holds_edgetpu_code(path: str) -> bool:
    """Tell whether the Edge TPU compiler mapped something of a file: its one operator has this name."""
    with open(path, "rb") as stream:
        return b"edgetpu-custom-op" in stream.read()


def edgetpu(path: str, threads: int) -> Tuple[Any, str]:
    """An interpreter on the Edge TPU: through pycoral, or the delegate it is made of (coral.ai/docs/edgetpu)."""
    fix = "install libedgetpu1-std from the Coral repository and plug the accelerator in"
    try:
        try:
            from pycoral.utils.edgetpu import make_interpreter

            return make_interpreter(path), "edgetpu (pycoral %s)" % package_version("pycoral")
        except ImportError:
            try:
                from tflite_runtime.interpreter import Interpreter, load_delegate
            except ImportError:
                from ai_edge_litert.interpreter import Interpreter, load_delegate
            delegate = load_delegate("libedgetpu.so.1")
            return Interpreter(path, experimental_delegates=[delegate]), "edgetpu (libedgetpu.so.1)"
    except ImportError as error:
        raise missing_runtime("pycoral or a LiteRT interpreter", error)
    except (ValueError, OSError) as error:
        raise Problem("no Edge TPU answers: %s" % (str(error).strip().splitlines() or ["libedgetpu.so.1"])[0], fix)
