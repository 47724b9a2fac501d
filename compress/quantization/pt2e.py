"""The only place that imports torchao: PT2E's entry points, without the notices its import logs."""

from torch import fx

from compress.support.quiet import quiet

with quiet():
    from torchao.quantization.pt2e.observer import ObserverBase
    from torchao.quantization.pt2e.prepare import prepare as _insert_observers
    from torchao.quantization.pt2e.quantizer import (
        QuantizationAnnotation,
        QuantizationSpec,
        QuantizationSpecBase,
        Quantizer,
        SharedQuantizationSpec,
    )
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

__all__ = [
    "Q_ANNOTATION_KEY",
    "ObserverBase",
    "QuantizationAnnotation",
    "QuantizationSpec",
    "QuantizationSpecBase",
    "Quantizer",
    "SharedQuantizationSpec",
    "prepare_pt2e",
]


def prepare_pt2e(graph: fx.GraphModule, quantizer: Quantizer) -> fx.GraphModule:
    """`graph`, changed, with the observers that `quantizer` asks for, and nothing else changed.

    torchao's own `prepare_pt2e` first folds every BatchNorm into the convolution before it, also where something else
    reads that convolution's output or weight, which then changes too (torchao 0.18, `pt2e/utils.py:_fuse_conv_bn_`).
    Folding is `quantization.batchnorm`'s; what that left alone has to stay.
    """
    quantizer.annotate(graph)
    quantizer.validate(graph)
    meta = graph.meta
    prepared: fx.GraphModule = _insert_observers(graph, {}, is_qat=False)
    prepared.meta.update(meta)
    return prepared
