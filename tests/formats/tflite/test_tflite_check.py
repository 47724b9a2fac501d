"""The full-integer checker: each violation names the operator, the tensor and the cause."""

from __future__ import annotations

from compress.formats.tflite.check import Requirements, check_network
from compress.formats.tflite.network import Network, Operator, Quantization, Tensor

GRID = Quantization((0.1,), (0,), 0)
STRICT = Requirements(full_integer=True)


def tensor(index, dtype="int8", shape=(1, 4, 4, 8)):
    grid = None if dtype.startswith("float") else GRID
    return Tensor(index, f"block{index}/conv;{index}", dtype, shape, grid, None)


def chain(*steps, shape=(1, 4, 4, 8), first="int8", subgraphs=1):
    """Operators `(kind, version, dtype of the output)` one after the other."""
    tensors = [tensor(0, first, shape)]
    operators = []
    for index, (kind, version, dtype) in enumerate(steps):
        tensors.append(tensor(index + 1, dtype, shape))
        operators.append(Operator(index, kind, version, (tensors[-2],), (tensors[-1],), {}))
    return Network((tensors[0],), (tensors[-1],), tuple(tensors), tuple(operators), subgraphs, {})


def words(network, wanted=STRICT):
    return [str(violation) for violation in check_network(network, wanted)]


def test_integers_throughout_have_no_violation():
    assert words(chain(("CONV_2D", 3, "int8"), ("ADD", 2, "int8"))) == []


def test_a_float_operator_is_named_with_its_cause():
    found = words(chain(("DEQUANTIZE", 2, "float32"), ("GELU", 1, "float32"), ("QUANTIZE", 1, "int8")))
    assert found == [
        "operator 0 DEQUANTIZE: 'block1/conv' float32 [1, 4, 4, 8] "
        "(what reads it has no integer kernel, or its output has no scale)",
        "operator 1 GELU: 'block2/conv' float32 [1, 4, 4, 8] (its output has no scale: the placement left it in float)",
        "operator 2 QUANTIZE: 'block2/conv' float32 [1, 4, 4, 8] (what comes before computes in float)",
    ]


def test_an_unquantized_model_is_said_to_be_one():
    (found,) = words(chain(("CONV_2D", 1, "float32"), first="float32"))
    assert "the model is not quantized; run ptq_static or qat before" in found


def test_float_outside_is_allowed_only_next_to_conversions():
    network = chain(("QUANTIZE", 1, "int8"), ("CONV_2D", 3, "int8"), ("DEQUANTIZE", 2, "float32"), first="float32")
    assert words(network, Requirements(full_integer=True, float_io=True)) == []
    assert len(words(network)) == 2


def test_a_transposition_of_integers_is_no_violation():
    assert words(chain(("CONV_2D", 3, "int8"), ("TRANSPOSE", 2, "int8"))) == []


def test_versions_beyond_the_targets():
    network = chain(("CONV_2D", 6, "int8"), ("ADD", 2, "int8"))
    (found,) = words(network, Requirements(full_integer=True, versions={"CONV_2D": 3, "ADD": 2}))
    assert found.startswith("operator 0 CONV_2D: version 6, the target's runtime has up to 3")


def test_shapes_batch_and_control_flow():
    assert "has an open size" in words(chain(("ADD", 2, "int8"), shape=(1, -1, 4, 8)))[0]
    assert "has batch 4 (export with batch 1)" in words(chain(("ADD", 2, "int8"), shape=(4, 4, 4, 8)))[0]
    assert words(chain(("ADD", 2, "int8"), shape=(4, 4)), Requirements(full_integer=True, batch_one=False)) == []
    assert "2 subgraphs" in words(chain(("ADD", 2, "int8"), subgraphs=2))[0]
