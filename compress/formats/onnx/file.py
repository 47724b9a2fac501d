"""One ONNX file: parsed when it is first asked something that its graph knows, and not again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import onnx
from onnx.external_data_helper import load_external_data_for_model

from compress.core.artifact import Precision
from compress.formats.base import NotMeasured, Unanswered
from compress.formats.onnx.external_data import external_files

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import fx

    from compress.core.artifact import Artifact
    from compress.core.measurement import IntegerShare, Sparsity
    from compress.formats.base import Activation
    from compress.formats.onnx.layers import Layer
    from compress.formats.onnx.pattern import Pattern
    from compress.formats.runner import Runner
    from compress.formats.size import Size

__all__ = ["OnnxFile"]

_RELEASE_FOR_OPSET = dict(
    zip(range(13, 21), ("1.6", "1.8", "1.10", "1.11", "1.12", "1.14", "1.15", "1.17"), strict=True)
)
"""The first ONNX Runtime that reads an opset: onnxruntime.ai/docs/reference/compatibility.html. Older opsets need
none."""


class OnnxFile(Unanswered):
    """Answers of the graph. What is parsed is shared: nobody changes it."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self._parsed: onnx.ModelProto | None = None
        self._beside: tuple[Path, ...] = ()

    @property
    def model(self) -> onnx.ModelProto:
        """The file with its weights, those that lie beside it too."""
        if self._parsed is None:
            path = self._artifact.path
            model = onnx.load(path, load_external_data=False)
            self._beside = external_files(model, path)
            if self._beside:
                load_external_data_for_model(model, str(path.parent))
            self._parsed = model
        return self._parsed

    def release(self) -> None:
        self._parsed = None

    def runner(self, *, threads: int) -> Runner:
        from compress.formats.onnx.runtime import load

        return load(self._artifact, threads=threads)

    def answers(self) -> Runner:
        from compress.formats.onnx.runtime import load
        from compress.formats.runtimes import usable_cores

        return load(self._artifact, threads=usable_cores(), timed=False)

    def reference(self) -> Runner:
        """Run it operator by operator where it is INT8: kernels that are fused round at other places.

        A file whose own operators multiply integers (dynamic quantization) is run with weights in 7 bits where this
        processor saturates their products: that would be its fault and not the file's.
        """
        from compress.formats.onnx.runtime import OnnxRunner, load, open_session
        from compress.formats.runtimes import usable_cores

        if self._artifact.precision is not Precision.INT8:
            return self.answers()
        if self._saturates_as_written():
            from compress.formats.onnx.seven_bits import in_7_bits

            content = in_7_bits(self.model).SerializeToString()
            return OnnxRunner(open_session(content, threads=usable_cores(), fused=False, timed=False))
        return load(self._artifact, threads=usable_cores(), fused=False, timed=False)

    def size(self) -> Size:
        from compress.formats.size import file_size

        _ = self.model  # knows what lies beside it
        return file_size((self._artifact.path, *self._beside))

    def as_module(self) -> fx.GraphModule:
        from compress.formats.onnx.importer import onnx_to_module

        return onnx_to_module(self._artifact.path)

    def self_contained(self, folder: Path) -> Artifact:
        from compress.formats.onnx.external_data import embedded

        return replace(self._artifact, model=embedded(self._artifact.path, folder))

    def digest(self) -> str:
        from compress.formats.digest import onnx_digest

        return onnx_digest(self._artifact.path)

    def parameters(self) -> int:
        from compress.formats.onnx.weights import onnx_parameters

        return onnx_parameters(self.model)

    def sparsity(self) -> Sparsity:
        from compress.formats.onnx.weights import onnx_sparsity

        return onnx_sparsity(self.model)

    def macs(self) -> int:
        from compress.formats.onnx.macs import onnx_macs

        return onnx_macs(self.model)

    def integers(self) -> IntegerShare:
        from compress.formats.onnx.integers import onnx_integers

        return onnx_integers(self.model)

    def pattern(self, n: int, m: int) -> Pattern:
        from compress.formats.onnx.pattern import onnx_pattern

        return onnx_pattern(self.model, n, m)

    def in_7_bits(self) -> bool:
        return self._within_7_bits

    def layers(self) -> tuple[Layer, ...]:
        return self._layers

    def activations(self, image: NDArray[np.float32]) -> list[Activation]:
        from compress.formats.onnx.values import onnx_activations

        return onnx_activations(self.model, image)

    def opset(self) -> int:
        return self._opset

    def needs(self) -> Mapping[str, str]:
        release = _RELEASE_FOR_OPSET.get(self._opset)
        return {"onnxruntime": release} if release else {}

    @cached_property
    def _opset(self) -> int:
        version = next((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), None)
        if version is None:
            raise NotMeasured("the file names no operator set of the ONNX standard")
        return int(version)

    @cached_property
    def _layers(self) -> tuple[Layer, ...]:
        from compress.formats.onnx.layers import graph_layers

        return graph_layers(self.model)

    @cached_property
    def _within_7_bits(self) -> bool:
        from compress.formats.onnx.weights import weights_in_7_bits

        return weights_in_7_bits(self.model)

    def _saturates_as_written(self) -> bool:
        from compress.formats.onnx.seven_bits import products_saturate

        return products_saturate() and self._multiplies_integers

    @cached_property
    def _multiplies_integers(self) -> bool:
        from compress.formats.onnx.seven_bits import integer_products

        return integer_products(self.model)
