"""On the GPU machine, first: the float twins of the INT8 files, and a 2:4 sparse one. Needs onnx and numpy."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from compress.formats.onnx.float_twin import float_twin


def two_of_four(model: onnx.ModelProto) -> None:
    """Keep the two largest of every four weights along the input channels (NVIDIA's 2:4 sparsity); in place."""
    convolved = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if tensor.name not in convolved or weight.shape[1] % 4:
            continue
        groups = weight.reshape(weight.shape[0], -1, 4, *weight.shape[2:])
        order = np.abs(groups).argsort(axis=2).argsort(axis=2)
        tensor.CopyFrom(numpy_helper.from_array((groups * (order >= 2)).reshape(weight.shape), tensor.name))


def main() -> None:
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("*-tensorrt.onnx")):
        net = path.name.removesuffix("-tensorrt.onnx")
        twin = float_twin(onnx.load(path))
        onnx.save(twin, folder / f"{net}-twin.onnx")
        if net == "resnet50":
            two_of_four(twin)
            onnx.save(twin, folder / f"{net}-2to4.onnx")


if __name__ == "__main__":
    main()
