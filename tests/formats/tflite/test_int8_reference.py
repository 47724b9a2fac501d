"""A file computes what its INT8 reference does, within one step of the output, whatever is joined or rearranged."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from doubles import ROOT
from torch import nn
from torch.nn import functional

from compress.core.artifact import InputSpec
from compress.formats.tflite.lower import recurrent_layers
from compress.formats.tflite.network import parse_network
from compress.graph.capture import capture

sys.path.append(str(ROOT / "tests" / "quantization"))

SPEC = InputSpec((3, 8, 8))
IMAGES = torch.randn(16, *SPEC.shape, generator=torch.Generator().manual_seed(2))


class Joined(nn.Module):
    def __init__(self, join):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.join = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1), join
        nn.init.normal_(self.b.weight, 0, 2.0)

    def forward(self, x):
        return self.join(x, self.a, self.b)


JOINS = {
    "scores, boxes": lambda x, a, b: torch.cat([a(x).sigmoid(), b(x)], 1),
    "stack": lambda x, a, b: torch.stack([a(x).sigmoid(), b(x)], 1).flatten(1, 2),
    "repeat": lambda x, a, b: a(x).repeat(1, 2, 1, 1),
}
SLOW = {
    "times 640": lambda x, a, b: a(x).sigmoid() * 640,
    "pad": lambda x, a, b: functional.pad(a(x).sigmoid(), (1, 1, 1, 1), value=3.0),
    "bilinear": lambda x, a, b: functional.interpolate(a(x), scale_factor=2, mode="bilinear"),
    "cat of cats": lambda x, a, b: torch.cat([torch.cat([a(x).sigmoid(), b(x)], 1), x], 1),
    "tile": lambda x, a, b: a(x).tile(1, 2, 1, 1),
    "repeat rows": lambda x, a, b: a(x).repeat(1, 1, 2, 3),
    "roll": lambda x, a, b: a(x).roll(2, 3),
    "flip": lambda x, a, b: a(x).flip(3),
    "gather": lambda x, a, b: a(x)[:, [3, 1, 2]],
    "unshuffle": lambda x, a, b: functional.pixel_unshuffle(a(x), 2),
    "chunks": lambda x, a, b: torch.cat([a(x).sigmoid().chunk(2, 1)[0], b(x).chunk(2, 1)[1]], 1),
    "pool": lambda x, a, b: torch.cat([functional.max_pool2d(a(x).sigmoid(), 3, 1, 1), b(x)], 1),
    "padded pool": lambda x, a, b: functional.max_pool2d(functional.pad(a(x).relu(), (1, 1, 1, 1), value=9.0), 3, 2),
    "maximum": lambda x, a, b: torch.maximum(a(x), b(x)),
    "from": lambda x, a, b: 1 - a(x).sigmoid(),
}


@pytest.mark.parametrize("join", [*JOINS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_within_one_step(join):
    pytest.importorskip("litert_torch", reason="needs the extra tflite")
    from recipes import make_recipe

    from compress.formats.tflite.write import Form, tflite_bytes
    from compress.quantization.policy import load_policy
    from compress.quantization.ptq import calibrate, convert, float_graph, prepare

    module = Joined({**JOINS, **SLOW}[join]).eval()
    prepared = prepare(float_graph(module, SPEC, load_policy("edgetpu")), make_recipe("edgetpu"))
    calibrate(prepared, [IMAGES])
    graph = convert(prepared)
    content = tflite_bytes(graph, SPEC, Form(), {})
    network = parse_network(content)
    assert not [tensor.label for tensor in network.tensors if tensor.is_float]
    assert bytes(network.metadata["min_runtime_version"]).rstrip(b"\0").startswith((b"1.1", b"2."))
    with torch.no_grad():
        expected = graph(IMAGES).numpy()
    computed, step = run(content)
    assert np.abs(computed.reshape(expected.shape) - expected).max() <= 1.01 * step


def run(content):
    """Real values that the interpreter makes of `IMAGES`, and the step of its output."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = source["quantization"]
    outputs = []
    for image in IMAGES.permute(0, 2, 3, 1).numpy():
        codes = np.clip(np.rint(image / scale) + zero_point, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], codes[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result["index"]).astype(np.float32))
    scale, zero_point = result["quantization"]
    return (np.concatenate(outputs) - zero_point) * scale, scale


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.out = kind(24, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x):
        return self.out(self.rnn(x.flatten(1, 2).transpose(1, 2))[0][:, -1])


@pytest.mark.parametrize(("kind", "name"), [(nn.LSTM, "rnn (LSTM)"), (nn.GRU, "rnn (GRU)"), (nn.RNN, "rnn (RNN)")])
def test_recurrent_layers_are_found_by_name(kind, name):
    assert recurrent_layers(capture(Recurrent(kind).eval(), SPEC, dynamic_batch=False)) == [name]
