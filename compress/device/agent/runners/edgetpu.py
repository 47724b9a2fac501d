"""TFLite files that were compiled for an Edge TPU."""

import os

from ..values import Json, Problem
from .delegate import holds_edgetpu_code
from .litert import LiteRtRunner


class EdgeTpuRunner(LiteRtRunner):
    """A compiled file on an Edge TPU; one that nothing was mapped of is not timed under this name."""

    family = "edgetpu"

    def __init__(self, path: str, model: Json, threads: int) -> None:
        if not holds_edgetpu_code(path):
            reason = "%s holds nothing that runs on an Edge TPU" % os.path.basename(path)
            raise Problem(reason, "compile it: edgetpu_compiler on x86-64 Linux")
        LiteRtRunner.__init__(self, path, model, threads)


Runner = EdgeTpuRunner
