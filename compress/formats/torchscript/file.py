"""One TorchScript file, read once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.formats.base import Unanswered

if TYPE_CHECKING:
    import torch

    from compress.core.artifact import Artifact
    from compress.core.measurement import Sparsity
    from compress.formats.runner import Runner

__all__ = ["ScriptFile"]


class ScriptFile(Unanswered):
    """Answers of a frozen script."""

    why = "a frozen script does not tell its layers apart"

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self._read: torch.jit.ScriptModule | None = None

    @property
    def script(self) -> torch.jit.ScriptModule:
        if self._read is None:
            from compress.formats.torchscript.script_file import load_script

            self._read = load_script(self._artifact.path)
        return self._read

    def release(self) -> None:
        self._read = None

    def runner(self, *, threads: int) -> Runner:
        from compress.formats.torchscript.runtime import load

        return load(self._artifact, threads=threads)

    def parameters(self) -> int:
        from compress.formats.torchscript.weights import script_parameters

        return script_parameters(self.script)

    def sparsity(self) -> Sparsity:
        from compress.formats.torchscript.weights import script_sparsity

        return script_sparsity(self.script)

    def macs(self) -> int:
        from compress.formats.torch.macs import dispatched_macs
        from compress.formats.torchscript.runtime import TorchScriptRunner

        run = TorchScriptRunner(self.script, threads=1, one_by_one=not self._artifact.dynamic_batch)
        return dispatched_macs(run, self._artifact.input)
