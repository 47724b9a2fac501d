"""Interface of every runtime to the code that measures: images in, logits out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Runner"]


class Runner(Protocol):
    """A loaded model, ready to run.

    Attributes:
        name: runtime and version that executes it, for example `onnxruntime 1.31.0`.
    """

    name: str

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits float32 `[N, classes]` for images float32 `[N, C, H, W]`.

        A batch of one is a single inference call (this is what latency times); a model with a fixed batch of one runs
        a larger N sample by sample.
        """
        ...
