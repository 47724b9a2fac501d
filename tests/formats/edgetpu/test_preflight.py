"""The prediction: what is mapped, where the graph breaks, what does not fit; held against compiled twins."""

from __future__ import annotations

import numpy as np
import pytest

from compress.core.errors import ModelError
from compress.formats.edgetpu.preflight import ON_CHIP_BYTES, preflight
from compress.formats.edgetpu.table import load_table
from compress.formats.tflite.network import Network, Operator, Quantization, Tensor, read_network

MIB = 1 << 20


class Chain:
    """INT8 operators one after the other, each with optional constants and options."""

    def __init__(self, shape=(1, 8, 8, 4), dtype="int8"):
        self.tensors = [self._tensor(0, shape, dtype)]
        self.operators = []
        self.last = self.tensors[0]

    @staticmethod
    def _tensor(index, shape, dtype, constant=None):
        grid = None if dtype == "float32" else Quantization((0.1,), (0,), 0)
        return Tensor(index, f"t{index}", dtype, tuple(shape), grid, constant)

    def add(self, kind, *, shape=None, dtype=None, constants=(), version=2, source=None, **options):
        source = source or self.last
        stored = [self._new(values.shape, str(values.dtype), values) for values in map(np.asarray, constants)]
        result = self._new(shape or source.shape, dtype or source.dtype)
        inputs = (*stored, source) if options.pop("constants_first", False) else (source, *stored)
        self.operators.append(Operator(len(self.operators), kind, version, inputs, (result,), options))
        self.last = result
        return self

    def _new(self, shape, dtype, constant=None):
        self.tensors.append(self._tensor(len(self.tensors), shape, dtype, constant))
        return self.tensors[-1]

    def network(self):
        return Network((self.tensors[0],), (self.last,), tuple(self.tensors), tuple(self.operators), 1, {})


def weight(*shape):
    return np.zeros(shape, np.int8)


def only(chain, **options):
    """The one operator's prediction."""
    (entry,) = preflight(chain.network(), **options).unmapped
    return entry


def test_a_whole_network_on_the_chip():
    chain = (
        Chain().add("CONV_2D", constants=[weight(4, 3, 3, 4)]).add("RELU6").add("AVERAGE_POOL_2D", shape=(1, 1, 1, 4))
    )
    result = preflight(chain.network())
    assert (result.mapped, result.operators, result.share, result.break_at) == (3, 3, 1.0, None)
    assert result.parameter_bytes == 4 * 3 * 3 * 4
    assert result.summary() == "predicted: 3 of 3 operators mapped; 0.00 MiB of parameters, fit on the chip"


def test_the_first_break_takes_what_depends_on_it_to_the_cpu():
    chain = Chain().add("CONV_2D", constants=[weight(4, 3, 3, 4)])
    trunk = chain.last
    chain.add("LEAKY_RELU").add("CONV_2D", constants=[weight(4, 3, 3, 4)]).add("MAX_POOL_2D")
    chain.add("RELU6", source=trunk)
    result = preflight(chain.network())
    assert result.mapped == 2  # the first convolution and the branch beside the break
    assert [entry.kind for entry in result.unmapped] == ["LEAKY_RELU", "CONV_2D", "MAX_POOL_2D"]
    text = str(result.break_at)
    assert text.startswith("operator 1 LEAKY_RELU: not supported by the Edge TPU; use PRELU with one slope")
    assert [entry.reason for entry in result.unmapped[1:]] == [
        "after operator 1 LEAKY_RELU: more than one subgraph is not supported"
    ] * 2
    assert result.parameter_bytes == 4 * 3 * 3 * 4
    assert "breaks at operator 1 LEAKY_RELU" in result.summary()


def test_operators_in_front_end_nothing():
    """As in Coral's MoveNet: CAST and QUANTIZE of floats, then the network, then what the CPU does with its output."""
    chain = Chain().add("CAST", dtype="float32").add("QUANTIZE", dtype="int8")
    chain.add("CONV_2D", constants=[weight(4, 3, 3, 4)]).add("RELU6").add("ARG_MAX").add("RELU6")
    result = preflight(chain.network())
    assert result.mapped == 2
    assert [(entry.kind, entry.in_front) for entry in result.unmapped] == [
        ("CAST", True),
        ("QUANTIZE", True),
        ("ARG_MAX", False),
        ("RELU6", False),
    ]
    assert result.break_at.kind == "ARG_MAX"
    assert "2 of 6 operators mapped; on the CPU in front: CAST, QUANTIZE; breaks at operator 4" in result.summary()


def test_what_joins_the_front_with_the_mapped_part_may_be_mapped():
    """A second input that the CPU has to prepare: where it meets the rest, nothing was broken yet."""
    chain = Chain()
    source = chain.last
    beside = chain.add("LEAKY_RELU").last
    trunk = chain.add("RELU6", source=source).last
    chain.add("ADD")
    joined = chain.operators[-1]
    chain.operators[-1] = Operator(joined.index, "ADD", 2, (trunk, beside), joined.outputs, {})
    assert [entry.kind for entry in preflight(chain.network()).unmapped] == ["LEAKY_RELU"]


def test_where_nothing_is_mapped_the_first_operator_says_why():
    result = preflight(Chain(dtype="float32").add("CONV_2D", constants=[weight(4, 3, 3, 4)]).add("RELU").network())
    assert (result.mapped, result.in_front) == (0, ())
    assert result.break_at.operator == "operator 0 CONV_2D"


@pytest.mark.parametrize(
    ("megabytes", "words"),
    [(6.0, "fit on the chip"), (7.0, "may not all fit: up to 0.8 MiB"), (11.0, "3.3 to 4.8 MiB are streamed")],
)
def test_parameters_that_do_not_fit(megabytes, words):
    result = preflight(Chain().add("CONV_2D", constants=[weight(int(megabytes * MIB) // 4, 1, 1, 4)]).network())
    assert words in result.summary()
    assert result.spill_bytes == tuple(max(0, result.parameter_bytes - room) for room in reversed(ON_CHIP_BYTES))


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        (Chain().add("CONV_2D", constants=[weight(4, 3, 3, 2)]), "a grouped convolution, 2 of 4 channels at a time"),
        (
            Chain().add("CONV_2D", constants=[weight(4, 3, 3, 4)], dilationWFactor=2, dilationHFactor=1),
            "dilations 1 and 2 differ",
        ),
        (Chain().add("AVERAGE_POOL_2D", fusedActivationFunction=1), "it has a fused activation"),
        (Chain((1, 8, 4)).add("FULLY_CONNECTED", constants=[weight(4, 4)]), "its output [1, 8, 4] is not one-dim"),
        (Chain((1, 20000)).add("SOFTMAX"), "it has more than 16000 elements"),
        (Chain().add("SOFTMAX"), "its input [1, 8, 8, 4] is not one-dimensional"),
        (Chain().add("MEAN", constants=[np.array([0], np.int32)]), "it reduces the batch"),
        (Chain((1, 8, 8, 6)).add("MEAN", constants=[np.array([-1], np.int32)]), "it reduces 6 channels, not a mult"),
        (Chain().add("PAD", constants=[np.array([[1, 0], [0, 0], [0, 0], [0, 0]], np.int32)]), "it pads the batch"),
        (Chain().add("RESIZE_NEAREST_NEIGHBOR", halfPixelCenters=True), "it uses half-pixel centres"),
        (Chain((1, 1, 1, 4)).add("RESIZE_BILINEAR", shape=(1, 33, 33, 4)), "it enlarges [1, 1] to [33, 33]"),
        (Chain((1, 33, 33, 4)).add("RESIZE_BILINEAR", shape=(1, 513, 513, 4)), "it enlarges [33, 33] to [513, 513]"),
        (
            Chain((1, 256, 256, 32)).add("RESIZE_NEAREST_NEIGHBOR", shape=(1, 512, 512, 32)),
            "[1, 256, 256, 32] and [1, 512, 512, 32] do not fit on the chip together",
        ),
        (Chain().add("PACK", axis=0), "it packs the batch"),
        (Chain().add("SPLIT", constants=[np.array(0, np.int32)], constants_first=True), "it splits the batch"),
        (Chain().add("PRELU", constants=[weight(8, 8, 4)]), "its slopes [8, 8, 4] differ in space"),
        (Chain().add("CONCATENATION", constants=[np.ones((1, 8, 8, 4), np.int8)]), "it joins a constant that is not"),
        (Chain().add("RELU", dtype="float32"), "'t1' float32 [1, 8, 8, 4] is not quantized"),
        (Chain((1, -1, 8, 4)).add("RELU"), "has an open size"),
        (Chain((2, 8, 8, 4)).add("RELU"), "has more than 3 dimensions above 1"),
        (Chain(dtype="int32").add("ADD"), "it works on int32 and not on 8-bit integers"),
        (
            Chain().add("STRIDED_SLICE", constants=[np.zeros(4, np.int32)] * 2 + [np.array([1, 2, 2, 1], np.int32)]),
            "strides [1, 2, 2, 1] are not all 1",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_known_limitations(chain, reason):
    assert reason in only(chain).reason


@pytest.mark.parametrize(
    "chain",
    [
        Chain().add("CONCATENATION", constants=[np.zeros((1, 8, 8, 4), np.int8)]),
        Chain().add("PAD", constants=[np.array([[0, 0], [1, 1], [1, 1], [0, 4]], np.int32)]),
        Chain((1, 8, 8, 8)).add("MEAN", constants=[np.array([3], np.int32)]),
        Chain((1, 12, 4)).add("RESHAPE", shape=(1, 48)),
        Chain((1, 64, 64, 32)).add("RESIZE_BILINEAR", shape=(1, 128, 128, 32), version=3, halfPixelCenters=True),
        Chain((1, 1, 1, 128)).add("TILE", shape=(1, 33, 33, 128), constants=[np.array([1, 33, 33, 1], np.int32)]),
    ],
)
def test_allowed_uses_are_mapped(chain):
    assert preflight(chain.network()).unmapped == ()


@pytest.mark.parametrize("kind", ["CONV_2D", "PRELU", "SOFTMAX"])
def test_an_operator_without_its_inputs_is_named(kind):
    chain = Chain().add(kind)
    chain.operators[0] = Operator(0, kind, 2, (), chain.operators[0].outputs, {})
    with pytest.raises(ModelError, match=f"operator 0 {kind} has not the inputs that its kind takes"):
        preflight(chain.network())


def test_older_runtimes_map_less():
    transposed = Chain().add("TRANSPOSE")
    assert preflight(transposed.network()).mapped == 1
    assert only(transposed, runtime=13).reason == "needs Edge TPU runtime 14, compiled for 13"
    dilated = Chain().add("DEPTHWISE_CONV_2D", constants=[weight(1, 3, 3, 4)], dilationWFactor=2, dilationHFactor=2)
    assert preflight(dilated.network()).mapped == 1
    assert only(dilated, runtime=12).reason == "it is dilated"


def test_the_table_is_whole():
    table = load_table()
    assert len(table.operators) >= 38
    assert not set(table.operators) & set(table.instead)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["keras_lstm_mnist_ptq", "mobilenet_v1_0.25_128_quant", "split_concat"])
def test_the_prediction_is_what_the_compiler_did(shared_data, name):
    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    folder = shared_data / "tflite" / "coral"
    predicted = preflight(read_network(folder / f"{name}.tflite"))
    compiled = read_network(folder / f"{name}_edgetpu.tflite")
    on_the_cpu = [operator for operator in compiled.operators if operator.kind != "edgetpu-custom-op"]
    assert len(predicted.unmapped) == len(on_the_cpu)
    assert predicted.spill_bytes == (0, 0)
