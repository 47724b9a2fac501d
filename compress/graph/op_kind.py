"""Kinds of operators, as far as quantization and its placement are concerned."""

from __future__ import annotations

from enum import Enum

__all__ = ["OpKind"]


class OpKind(str, Enum):
    """Kinds of operators, as far as placement is concerned; `compress.graph.operators` maps ATen to these."""

    CONV = "conv"
    CONV_TRANSPOSE = "conv_transpose"
    LINEAR = "linear"
    MATMUL = "matmul"
    ADD = "add"
    MUL = "mul"
    CONCAT = "concat"
    RELU = "relu"
    CLIP = "clip"
    LEAKY_RELU = "leaky_relu"
    HARDSWISH = "hardswish"
    HARDSIGMOID = "hardsigmoid"
    SIGMOID = "sigmoid"
    SILU = "silu"
    GELU = "gelu"
    TANH = "tanh"
    SOFTMAX = "softmax"
    LOG_SOFTMAX = "log_softmax"
    MAX_POOL = "max_pool"
    AVG_POOL = "avg_pool"
    RESIZE = "resize"
    PAD = "pad"
    RESHAPE = "reshape"
    TRANSPOSE = "transpose"
    SLICE = "slice"
    SPLIT = "split"
    REARRANGE = "rearrange"
    NORMALIZATION = "normalization"
    OTHER = "other"

    def __str__(self) -> str:
        return self.value
