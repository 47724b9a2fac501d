"""Why a network has no file, in the user's words: the layer, its module, the operator, and what to put in its place.

The converter and the interpreter speak of their own inner forms (MLIR, node numbers, temporary paths). None of that
helps whoever wrote the network, so none of it is passed on: from their messages the operator is read, and from the
captured graph the layer that calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import fx

from compress.errors import StageError
from compress.graph import call_nodes
from compress.quantization.operators import activations

__all__ = ["described", "not_loadable", "unmapped", "untranslatable", "without_integers"]

_NAMED = (
    re.compile(r"Lowering not found: (?:aten[.:]+)?(?P<name>\w+)"),
    re.compile(r"'(?:tfl|stablehlo|chlo|mhlo|vhlo)\.(?P<name>\w+)'"),
    re.compile(r"builtin opcode '(?P<name>\w+)'"),
    re.compile(r"Node number \d+ \((?P<name>\w+)\)"),
    re.compile(r"\b(?:aten|torch\.ops\.aten)[.:]+(?P<name>\w+)"),
)
"""How the converter (first the frontend, then the MLIR dialects) and the interpreter name an operator."""

_SHOWN = 3

_KNOWN = frozenset(
    (
        *("conv1d conv2d conv_transpose2d linear matmul bmm mm addmm add sub rsub mul neg cat stack".split()),
        *("relu relu6 hardtanh clamp clamp_min clamp_max leaky_relu prelu elu hardswish hardsigmoid".split()),
        *("sigmoid silu gelu tanh softmax _softmax log_softmax _log_softmax abs exp log sqrt rsqrt".split()),
        *("maximum minimum max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_max_pool2d".split()),
        *("mean sum amax amin upsample_nearest2d upsample_bilinear2d pad constant_pad_nd view reshape".split()),
        *("flatten unflatten squeeze unsqueeze transpose permute t contiguous clone channel_shuffle".split()),
        *("pixel_shuffle pixel_unshuffle slice select expand chunk split split_with_sizes tensor_split".split()),
        *("unbind zeros_like dropout detach alias to _to_copy".split()),
    )
)
"""ATen operators that become integer ones of LiteRT, between quantized tensors: each was converted and run."""

_ADVICE = {
    "softplus": "nn.Mish or nn.ReLU in its place, and train on",
    "log_sigmoid": "compute it on the host, after the output, or leave it out where the loss takes logits",
    "gelu": 'nn.GELU(approximate="tanh") in its place: outputs differ by less than 0.0005, no training needed',
    "pow": "a whole exponent from 1 to 8, 0.5 or -0.5",
    "exp": "torch.sigmoid, which is bounded, or compute it on the host, after the output",
    "log": "compute it on the host, after the output",
    "group_norm": "nn.BatchNorm2d in its place, and train on: its statistics are stored",
    "instance_norm": "nn.BatchNorm2d in its place, and train on: its statistics are stored",
    "layer_norm": "nn.BatchNorm2d in its place, and train on: its statistics are stored",
    "batch_norm": "stored statistics (track_running_stats=True)",
    "local_response_norm": "nn.BatchNorm2d in its place, and train on",
    "conv3d": "nn.Conv2d over each frame: there is no integer convolution of volumes",
    "max_pool3d": "nn.MaxPool2d over each frame",
    "avg_pool3d": "nn.AvgPool2d over each frame",
    "lstm": "nn.Conv1d over time, or placement=onnxruntime with to_onnx, which keeps it in float",
    "gru": "nn.Conv1d over time, or placement=onnxruntime with to_onnx, which keeps it in float",
    "rnn_tanh": "nn.Conv1d over time, or placement=onnxruntime with to_onnx, which keeps it in float",
    "_adaptive_avg_pool2d": "nn.AvgPool2d with a kernel that divides the map, or nn.AdaptiveAvgPool2d(1)",
    "adaptive_avg_pool2d": "nn.AvgPool2d with a kernel that divides the map, or nn.AdaptiveAvgPool2d(1)",
    "upsample_bicubic2d": 'mode="bilinear" in its place',
    "grid_sampler": "F.interpolate where the grid is a resize; else compute it on the host, before the input",
    "cumsum": "compute it on the host, after the output",
    "cumprod": "compute it on the host, after the output",
    "topk": "compute it on the host, after the output",
    "sort": "compute it on the host, after the output",
    "argsort": "compute it on the host, after the output",
    "im2col": "nn.Conv2d, or nn.PixelUnshuffle where the patches do not overlap",
    "col2im": "nn.ConvTranspose2d, or nn.PixelShuffle where the patches do not overlap",
    "where": "torch.maximum, torch.minimum or nn.PReLU, whose choice is by value and not by mask",
    "div": "a product: only stored numbers can be divided by",
    "sin": "a table of stored numbers where its argument does not depend on the input",
    "cos": "a table of stored numbers where its argument does not depend on the input",
}
"""By ATen operator: what gives an integer file, and what it costs."""

_OTHERWISE = "compute it on the host, before the input or after the output, or put another layer in its place"
_FAMILIES = {
    "fft": "compute the transform on the host, before the input: LiteRT has no integer one",
    "complex": "real and imaginary part as channels of their own",
    "linalg": "compute it on the host, after the output",
    "upsample": 'mode="nearest" or mode="bilinear" in its place',
}
"""The same for names that contain a word."""

_OF_KIND = {"GELU": "gelu", "LEAKY_RELU": "leaky_relu", "HARD_SWISH": "hardswish", "EXP": "exp", "LOG": "log"}
"""ATen operators by the operators of LiteRT that stand for nothing else."""


def untranslatable(error: BaseException, graph: fx.GraphModule) -> StageError:
    """The converter's exception as one line: the operator that has no form, and the layers that call it."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    return _refusal(graph, _operator_named(str(root)), "LiteRT has no form for")


def not_loadable(error: BaseException, graph: fx.GraphModule) -> StageError:
    """The interpreter's exception about a file that the converter wrote, as one line."""
    return _refusal(graph, _operator_named(str(error)), "LiteRT has no kernel for")


def without_integers(graph: fx.GraphModule, title: str) -> StageError | None:
    """Why the file is not in integers throughout: the layers whose operators have no integer kernel. None: no such."""
    nodes = _unknown(graph)
    if not nodes:
        return None
    return StageError(
        f"{title} needs a full-integer file, and LiteRT has no integer kernel for {described(nodes)}", fix=_advice(nodes[0])
    )


def unmapped(graph: fx.GraphModule, kind: str, title: str) -> StageError:
    """A file with an operator that the target's runtime has not."""
    nodes = _calling(graph, _OF_KIND.get(kind, kind.lower()))
    where = described(nodes) if nodes else kind
    return StageError(f"{title}'s runtime has no {kind}, which stands for {where}", fix=_advice(nodes[0]) if nodes else _OTHERWISE)


def described(nodes: Iterable[fx.Node]) -> str:
    """`aten.pow in layer '2' (Cube)`, a few of them, each layer once."""
    entries = list(dict.fromkeys(f"{_name(node)!r} in {_layer(node)}" for node in nodes))
    return ", ".join(entries[:_SHOWN]) + (f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else "")


def _refusal(graph: fx.GraphModule, operator: str | None, problem: str) -> StageError:
    """Names the calls of `operator`, else those that are not known to have a form, else the operator alone."""
    nodes = _calling(graph, operator) or _unknown(graph)
    if nodes:
        return StageError(f"{problem} {described(nodes)}", fix=_advice(nodes[0]))
    if operator is not None:
        return StageError(f"{problem} {operator!r}, which no layer of the model is named for", fix=_OTHERWISE)
    calls = ", ".join(sorted({_name(node) for node in call_nodes(graph) if _computes(node)}))
    return StageError(f"LiteRT's converter failed without naming an operator; the model has {calls}", fix=_OTHERWISE)


def _operator_named(text: str) -> str | None:
    match = next((match for pattern in _NAMED if (match := pattern.search(text))), None)
    return None if match is None else match["name"].removeprefix("STABLEHLO_").lower()


def _calling(graph: fx.GraphModule, operator: str | None) -> list[fx.Node]:
    return [node for node in call_nodes(graph) if operator is not None and _name(node) == operator]


def _unknown(graph: fx.GraphModule) -> list[fx.Node]:
    """Calls on activations that are not known to become integer operators."""
    return [node for node in call_nodes(graph) if _computes(node) and _name(node) not in _KNOWN]


def _computes(node: fx.Node) -> bool:
    return getattr(node.target, "namespace", "") == "aten" and bool(activations(node))


def _name(node: fx.Node) -> str:
    """`pow` of `aten.pow.Tensor_Scalar`."""
    return str(getattr(node.target, "overloadpacket", node.target)).removeprefix("aten.")


def _layer(node: fx.Node) -> str:
    """`layer 'stage2.0.act' (PReLU)`."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path, kind = (str(part) for part in stack[-1][:2]) if stack else ("", "")
    path = path.removeprefix("L['self']").lstrip(".")
    module = kind.rpartition(".")[2].rstrip("'>")
    where = f"layer {path!r}" if path else "the model"
    return f"{where} ({module})" if module else where


def _advice(node: fx.Node) -> str:
    name = _name(node)
    family = next((text for word, text in _FAMILIES.items() if word in name), _OTHERWISE)
    return f"{_layer(node)}: {_ADVICE.get(name, family)}"
