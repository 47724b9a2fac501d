"""Malformed ONNX files: bombs, programs without an end, tensors that are not what they say, and bits turned over."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from robustness_case import Case, generated, mutated, write

import compress.formats.onnx.importer
import compress.formats.onnx.source  # what every child would import
import compress.pruning.network  # noqa: F401
from compress.core.stage import Progress
from compress.formats.onnx.importer import onnx_to_module
from compress.models import class_names, load_model
from compress.models.configs import FileModel, InputConfig

__all__ = ["graphs", "loaded"]

T = TypeVar("T")

_INPUT = InputConfig(shape=(1, 8, 8), channel_order="gray", mean=(0.5,), std=(0.5,))
_SIZES = (40_000, 100_000, 2**16, 2**31 - 1, 2**31, 2**40, 2**62, 0, -1)
_SMALL = (1, 2, 64)


class _Silent(Progress):
    def track(self, items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        return iter(items)

    def log(self, message: str) -> None: ...


def loaded(name: str, time_limit: int = 5) -> Callable[[], object]:
    """What a run does with a model file, and importing it into torch where it is ONNX."""

    def run() -> int:
        config = FileModel(kind="file", path=Path(name), input=_INPUT, time_limit=time_limit)
        class_names(config)
        load_model(config, trusted=lambda _: False, seed=0, progress=_Silent(), finetune=None)
        if name.endswith(".onnx"):
            onnx_to_module(Path(name))
        return 0

    return run


def _numbers(name: str, values: Sequence[int] | np.ndarray, kind: type = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, kind), name)


def _model(nodes: Sequence[NodeProto], stored: Sequence[TensorProto] = (), *, extra: str | None = "big") -> ModelProto:
    """Flatten and Gemm to 10 logits, to which the largest element of `extra` is added, where there is one."""
    weights = [_numbers("w", np.eye(64, 10), np.float32), _numbers("b", np.zeros(10), np.float32)]
    network = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["l"])]
    if extra is None:
        network += [*nodes, helper.make_node("Identity", ["l"], ["y"])]
    else:
        network += [*nodes, helper.make_node("ReduceMax", [extra], ["m"], keepdims=0)]
        network.append(helper.make_node("Add", ["l", "m"], ["y"]))
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(network, "g", [image], [logits], [*weights, *stored])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _node(kind: str, *inputs: str, out: str = "big", **attributes: object) -> NodeProto:
    return helper.make_node(kind, list(inputs), [out], **attributes)


def _size(rng: random.Random) -> int:
    return rng.choice(_SIZES if rng.random() < 0.8 else _SMALL)


_Part = tuple[list[NodeProto], list[TensorProto]]

_BOMBS: dict[str, Callable[[int, int], _Part]] = {
    "Pad": lambda a, b: ([_node("Pad", "x", "p")], [_numbers("p", [0, 0, 0, a, 0, 0, b, 0])]),
    "Expand": lambda a, b: ([_node("Expand", "z", "s")], [_numbers("s", [a, b]), _numbers("z", [1], np.float32)]),
    "ConstantOfShape": lambda a, b: ([_node("ConstantOfShape", "s")], [_numbers("s", [a, b])]),
    "Tile": lambda a, b: ([_node("Tile", "x", "r")], [_numbers("r", [1, 1, a, b])]),
    "Tile stored": lambda a, b: ([_node("Tile", "w", "r")], [_numbers("r", [a, b])]),
    "Range": lambda a, b: (
        [_node("Range", "0", "a", "1")],
        [_numbers("0", 0.0, np.float32), _numbers("a", float(a) * b, np.float32), _numbers("1", 1.0, np.float32)],
    ),
    "Resize": lambda a, b: ([_node("Resize", "x", "", "", "s")], [_numbers("s", [1, 1, a, b])]),
    "Resize scales": lambda a, b: ([_node("Resize", "x", "", "s")], [_numbers("s", [1, 1, a, b], np.float32)]),
    "Gather": lambda a, b: (
        [_node("ConstantOfShape", "s", out="i", value=_numbers("v", [0])), _node("Gather", "x", "i", axis=3)],
        [_numbers("s", [a, b])],
    ),
    "OneHot": lambda a, b: (
        [_node("Cast", "x", out="i", to=TensorProto.INT64), _node("OneHot", "i", "d", "v")],
        [_numbers("d", min(abs(a * b) or 1, 2**62)), _numbers("v", [0, 1], np.float32)],
    ),
    "EyeLike": lambda a, b: (
        [_node("ConstantOfShape", "s", out="i"), _node("EyeLike", "i")],
        [_numbers("s", [a, b])],
    ),
    "ConvTranspose": lambda a, b: (
        [_node("ConvTranspose", "x", "k", strides=[max(a, 1) % 2**31, max(b, 1) % 2**31])],
        [_numbers("k", np.ones((1, 1, 1, 1)), np.float32)],
    ),
    "Conv pads": lambda a, b: (
        [_node("Conv", "x", "k", pads=[max(a, 0) % 2**31, 0, max(b, 0) % 2**31, 0])],
        [_numbers("k", np.ones((1, 1, 1, 1)), np.float32)],
    ),
    "Upsample sizes": lambda a, b: (
        [_node("Shape", "x", out="q"), _node("Mul", "q", "f2", out="s"), _node("Expand", "x", "s2"), _cast_size()],
        [_numbers("f2", [1, 1, a, b])],
    ),
    "MatMul": lambda a, b: (
        [_node("Expand", "z", "s", out="c"), _node("Expand", "z", "t", out="d"), _node("MatMul", "c", "d")],
        [_numbers("s", [a, 1]), _numbers("t", [1, b]), _numbers("z", [[1]], np.float32)],
    ),
    "Concat": lambda a, b: ([_node("Concat", *["x"] * (abs(a) % 3000 + 1), axis=3)], []),
    "DepthToSpace": lambda a, b: ([_node("SpaceToDepth", "x", blocksize=max(abs(a) % 2**31, 1))], []),
}


def _cast_size() -> NodeProto:
    return _node("Identity", "s", out="s2")


def _bomb(rng: random.Random) -> tuple[str, ModelProto]:
    kind = rng.choice(sorted(_BOMBS))
    nodes, stored = _BOMBS[kind](_size(rng), _size(rng))
    if kind == "Upsample sizes":
        nodes = [nodes[0], nodes[1], nodes[3], nodes[2]]
    dead = rng.random() < 0.2
    return f"{kind}{' unused' if dead else ''}", _model(nodes, stored, extra=None if dead else "big")


def _doubling(rng: random.Random) -> tuple[str, ModelProto]:
    """Twice as large with every node, or twice as much to fold."""
    steps, kind = rng.choice((5, 27, 34, 60)), rng.choice(("Concat", "Add"))
    names = ["x" if rng.random() < 0.5 else "w", *[f"d{number}" for number in range(steps)]]
    axis = {"axis": 0} if kind == "Concat" else {}
    nodes = [_node(kind, names[n], names[n], out=names[n + 1], **axis) for n in range(steps)]
    return f"doubling {kind}", _model(nodes, extra=names[-1])


def _body(nodes: Sequence[NodeProto], *, output: str, condition: str = "c") -> GraphProto:
    values = [helper.make_tensor_value_info("i", TensorProto.INT64, [])]
    values.append(helper.make_tensor_value_info("c0", TensorProto.BOOL, []))
    values.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    results = [helper.make_tensor_value_info(condition, TensorProto.BOOL, [])]
    results.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    return helper.make_graph([_node("Identity", "c0", out="c"), *nodes], "body", values, results)


_STEPS: dict[str, NodeProto] = {
    "adding": _node("Add", "a", "a", out="r"),
    "growing": _node("Concat", "a", "a", out="r", axis=0),
    "standing": _node("Identity", "a", out="r"),
}


def _loop(rng: random.Random) -> tuple[str, ModelProto]:
    kind = rng.choice(sorted(_STEPS))
    body = _body([_STEPS[kind]], output="r")
    for level in range(rng.choice((0, 0, 1, 3, 12))):
        inner = helper.make_node("Loop", ["n", "t", "a"], [f"r{level}"], body=body)
        body = _body([inner], output=f"r{level}")
    stored = [_numbers("n", rng.choice((1, 100, 10**6, 2**62))), _numbers("t", True, np.bool_)]
    return f"loop {kind}", _model([helper.make_node("Loop", ["n", "t", "x"], ["big"], body=body)], stored)


def _branches(rng: random.Random) -> tuple[str, ModelProto]:
    """Branches in branches."""
    graph = helper.make_graph(
        [_node("Identity", "x", out="o")], "leaf", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)]
    )
    for level in range(rng.choice((1, 5, 12))):
        both = rng.random() < 0.3
        node = helper.make_node("If", ["t"], [f"o{level}"], then_branch=graph, else_branch=graph)
        if not both:
            node.attribute[1].g.CopyFrom(helper.make_graph([_node("Identity", "x", out="e")], "e", [], [_free("e")]))
        graph = helper.make_graph([node], f"level{level}", [], [_free(f"o{level}")])
    nodes = list(graph.node)
    return "branches", _model(nodes, [_numbers("t", True, np.bool_)], extra=nodes[0].output[0])


def _free(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _tensor(rng: random.Random) -> tuple[str, ModelProto]:
    """A stored tensor that is not what it says."""
    model = _model([], extra=None)
    tensor = rng.choice(model.graph.initializer)
    kind = rng.choice(("dims", "type", "raw", "typed", "external", "sparse", "segment"))
    if kind == "dims":
        tensor.dims[:] = [rng.choice((*_SIZES, 3, 64)) for _ in range(rng.choice((0, 1, 2, 9)))]
    elif kind == "type":
        tensor.data_type = rng.choice((0, 2, 8, 9, 10, 14, 16, 17, 21, 22, 23, 99, -1))
    elif kind == "raw":
        tensor.raw_data = tensor.raw_data[: rng.choice((0, 1, 39))] * rng.choice((1, 3))
    elif kind == "typed":
        tensor.ClearField("raw_data")
        getattr(tensor, rng.choice(("float_data", "int32_data", "int64_data", "double_data"))).extend(
            [1] * rng.choice((0, 1, 10, 640, 1000))
        )
    elif kind == "external":
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, values in (("location", ("m.onnx", "../m.onnx", "/dev/zero", "")), ("length", ("40", "-1", "9" * 30))):
            tensor.external_data.add(key=key, value=rng.choice(values))
    elif kind == "sparse":
        sparse = model.graph.sparse_initializer.add()
        sparse.values.CopyFrom(_numbers("s", [1.0], np.float32))
        sparse.indices.CopyFrom(_numbers("", [rng.choice((0, 2**40, -1))]))
        sparse.dims[:] = [_size(rng), _size(rng)]
    else:
        tensor.segment.begin, tensor.segment.end = 0, rng.choice((1, 2**40))
    return f"tensor {kind}", model


_FIELDS = ("op_type", "name", "domain", "inputs", "outputs", "attribute", "gone", "twice", "order", "cycle")


def _edited(rng: random.Random) -> tuple[str, ModelProto]:
    """A field of a node changed."""
    model = _model([_node("Pad", "x", "p")], [_numbers("p", [0, 0, 1, 1, 0, 0, 1, 1])])
    nodes, kind = model.graph.node, rng.choice(_FIELDS)
    node = rng.choice(nodes)
    if kind in ("op_type", "name", "domain"):
        setattr(node, kind, rng.choice(("", "Loop", "Einsum", "x" * 100_000, "a\n\0b", "com.microsoft", "LSTM", "é")))
    elif kind in ("inputs", "outputs"):
        values = node.input if kind == "inputs" else node.output
        values[:] = rng.choice(([], [""], ["x"] * 5000, ["nothing"], ["y"], [*values, "x"]))
    elif kind == "attribute":
        value: object = rng.choice((2**62, -1, 1e38, "x", [1, 2], [2**40] * 9, [1.5], _numbers("v", [2**40])))
        node.attribute.append(helper.make_attribute(rng.choice(("axis", "alpha", "mode", "keepdims", "to")), value))
    elif kind == "gone":
        del nodes[rng.randrange(len(nodes))]
    elif kind == "twice":
        nodes.append(node)
    elif kind == "order":
        kept = list(nodes)
        rng.shuffle(kept)
        del nodes[:]
        nodes.extend(kept)
    else:
        nodes[0].input[0] = nodes[-1].output[0]
    return f"edited {kind}", model


def _function(rng: random.Random) -> tuple[str, ModelProto]:
    """Functions that call functions, one of them perhaps itself."""
    levels, model = rng.choice((1, 20, 40)), _model([_node("F0", "x", domain="own")])
    for level in range(levels):
        last = level + 1 == levels
        called = rng.choice(("Identity", "F0")) if last else f"F{level + 1}"
        domain = "" if called == "Identity" else "own"
        body = [_node(called, "a", out="h", domain=domain), _node(called, "h", out="o", domain=domain)]
        ids = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", f"F{level}", ["a"], ["o"], body, ids))
    model.opset_import.append(helper.make_opsetid("own", 1))
    return "functions", model


def _metadata(rng: random.Random) -> tuple[str, ModelProto]:
    model = _model([], extra=None)
    depth = rng.choice((100, 5000, 100_000))
    text = rng.choice(("[" * depth, "{0:" * depth, "-" * depth + "1", "1" + "+1" * depth, "'" * depth, "9" * depth))
    model.metadata_props.add(key="names", value=text)
    return "metadata", model


def _bytes(rng: random.Random) -> tuple[str, bytes]:
    valid = _model([_node("Pad", "x", "p")], [_numbers("p", [0, 0, 1, 1, 0, 0, 1, 1])]).SerializeToString()
    kind = rng.choice(("mutated", "truncated", "nested", "other"))
    if kind == "mutated":
        return kind, mutated(valid, rng, (b"\xff" * 9, b"\x0a", b"\x00", b"Gemm", b"Loop", b"\x80" * 10))
    if kind == "truncated":
        return kind, valid[: rng.randrange(len(valid))]
    if kind == "nested":
        content = b""
        for _ in range(rng.choice((50, 2000))):
            content = b"\x0a" + _varint(len(content)) + content
        return kind, b"\x3a" + _varint(len(content)) + content
    return kind, rng.choice((b"", bytes(100), b"PK\3\4", b"\x08\x08", rng.randbytes(300)))


def _varint(number: int) -> bytes:
    content = bytearray()
    while number > 127:
        content.append(number & 127 | 128)
        number >>= 7
    return bytes([*content, number])


_KINDS = (_bomb, _bomb, _bomb, _doubling, _loop, _loop, _branches, _tensor, _tensor, _edited, _edited, _function)


def _one(rng: random.Random) -> Case:
    if rng.random() < 0.2:
        kind, content = _bytes(rng)
    else:
        kind, model = rng.choice((*_KINDS, _metadata))(rng)
        content = model.SerializeToString()
    return Case(f"onnx {kind}", write({"m.onnx": content}), loaded("m.onnx"))


def graphs(count: int, seed: int) -> Iterator[Case]:
    """ONNX files."""
    return generated(count, seed, _one)
