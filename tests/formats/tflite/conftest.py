"""Tiny `.tflite` files built entry by entry, without the converter, and networks made of plain data."""

from __future__ import annotations

import numpy as np
import pytest

from compress.formats.tflite.flatbuffer import new_code, new_constant, schema


class FileBuilder:
    """Grows a model one tensor and one operator at a time; INT8 tensors share one scale unless told otherwise."""

    def __init__(self):
        generated = schema()
        self.model = generated.ModelT()
        self.model.version = 3
        self.model.operatorCodes, self.model.metadata, self.model.signatureDefs = [], [], []
        self.model.buffers = [generated.BufferT()]  # the empty one
        self.graph = generated.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []
        self.model.subgraphs = [self.graph]

    def tensor(self, shape, *, kind="INT8", constant=None, scale=0.5, zero_point=-128, name=None):
        tensor = schema().TensorT()
        tensor.name = (name or f"t{len(self.graph.tensors)}").encode()
        tensor.shape, tensor.type = list(shape), getattr(schema().TensorType, kind)
        tensor.buffer = 0 if constant is None else new_constant(self.model, np.asarray(constant))
        if kind in ("INT8", "UINT8"):
            tensor.quantization = schema().QuantizationParametersT()
            tensor.quantization.scale = list(np.atleast_1d(scale))
            tensor.quantization.zeroPoint = [zero_point] * np.size(scale)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def integers(self, numbers):
        return self.tensor([len(numbers)], kind="INT32", constant=np.asarray(numbers, np.int32))

    def operator(self, kind, version, inputs, outputs, options=None, **fields):
        operator = schema().OperatorT()
        operator.opcodeIndex = new_code(self.model, kind, version)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            operator.builtinOptionsType = getattr(schema().BuiltinOptions, options)
            operator.builtinOptions = getattr(schema(), f"{options}T")()
            for field, value in fields.items():
                setattr(operator.builtinOptions, field, value)
        self.graph.operators.append(operator)
        return operator

    def interface(self, given, taken):
        self.graph.inputs, self.graph.outputs = [given], [taken]
        return self.model


@pytest.fixture
def builder():
    """The class, where one test builds many files."""
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    return FileBuilder


@pytest.fixture
def build(builder):
    return builder()


@pytest.fixture
def run_bytes():
    def run(content, codes, output=0):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], codes)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[output]["index"])

    return run
