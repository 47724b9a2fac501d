"""A real 260 K-parameter Llama: the story it tells with quantized weights."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnxruntime
import pytest
import torch
from doubles import not_here
from onnx_ir.passes import common

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.formats.onnx.dynamic_quant import quantize_linears
from compress.formats.onnx.linear_layers import find_linears, read_elsewhere
from compress.formats.onnx.rewrite import open_float
from compress.formats.onnx.tidy import tidy
from compress.formats.onnx.weight_only import BlockScheme, pack_linears
from compress.formats.onnx.write import write_checked
from compress.support.quiet import quiet

pytestmark = pytest.mark.real_data

LENGTH = 96
PROMPT = "Once upon a time"


class Story:
    """An exported decoder of `LENGTH` tokens."""

    def __init__(self, path, ids):
        self.path, self.prompt = path, ids
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def logits(self, ids):
        """`[len(ids), vocabulary]`; attention is causal, so what fills up the input changes no weight-only logit."""
        filled = np.array([[*ids, *[ids[-1]] * (LENGTH - len(ids))]])
        return self.session.run(None, {"ids": filled})[0][0, : len(ids)]

    def greedy(self):
        ids = list(self.prompt)
        while len(ids) < LENGTH:
            ids.append(int(self.logits(ids)[-1].argmax()))
        return ids


def equal_tokens(first, second):
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=True)) if a != b), len(first))


@pytest.fixture(scope="module")
def story(shared_data, tmp_path_factory):
    folder = shared_data / "weights" / "stories260k"
    spec = importlib.util.spec_from_file_location("tinyllama", folder / "tinyllama.py")
    tinyllama = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tinyllama)
    network = tinyllama.load(folder / "stories260K.bin")
    network.c, network.n = network.c[:LENGTH].clone(), network.n[:LENGTH].clone()
    network.mask = network.mask[:LENGTH, :LENGTH].clone()
    with quiet(), torch.no_grad():
        program = torch.export.export(network, (torch.zeros(1, LENGTH, dtype=torch.long),), strict=False)
        model = torch.onnx.export(
            program, dynamo=True, verbose=False, optimize=False, input_names=["ids"], output_names=["logits"]
        ).model
    tidy(model)
    path = tmp_path_factory.mktemp("llama") / "story.onnx"
    write_checked(model, path, {})
    ids = tinyllama.encode(tinyllama.tokenizer(folder / "tok512.bin"), PROMPT)
    return Story(path, ids)


@pytest.fixture(scope="module")
def told(story):
    """The FP32 story."""
    return story.greedy()


def rewritten(story, path, edit):
    artifact = Artifact(Format.ONNX, story.path, Precision.FP32, InputSpec((1, 1, 1), "gray", (0.0,), (1.0,)))
    model = open_float(artifact, "test")
    linears, _ = find_linears(model)
    free = [linear for linear in linears if not read_elsewhere(linear, linears)]
    assert (len(linears), len(free)) == (36, 35)  # the output layer shares its weight with the embedding
    edit(model, free)
    common.RemoveUnusedNodesPass()(model)
    write_checked(model, path, {})
    return Story(path, story.prompt)


def closeness(story, other, ids):
    """SQNR of all logits in dB and the share of equal next tokens, on the same text."""
    exact, rounded = story.logits(ids), other.logits(ids)
    noise = float(np.sum((exact - rounded) ** 2, dtype=np.float64))
    return 10 * np.log10(np.sum(exact**2) / noise), float(np.mean(exact.argmax(1) == rounded.argmax(1)))


def test_int8_weights_tell_the_same_story(story, told, tmp_path):
    scheme = BlockScheme(bits=8, block_size=32, symmetric=False, search=True, accuracy_level=0)
    packed = rewritten(story, tmp_path / "int8.onnx", lambda model, linears: pack_linears(model, linears, scheme))
    sqnr_db, agreement = closeness(story, packed, told)
    assert sqnr_db > 42
    assert agreement > 0.97
    assert packed.greedy() == told


def test_int4_weights_tell_a_story(story, told, tmp_path):
    scheme = BlockScheme(bits=4, block_size=16, symmetric=False, search=True, accuracy_level=0)
    packed = rewritten(story, tmp_path / "int4.onnx", lambda model, linears: pack_linears(model, linears, scheme))
    sqnr_db, agreement = closeness(story, packed, told)
    assert sqnr_db > 19
    assert agreement > 0.85
    assert equal_tokens(packed.greedy(), told) >= 10


@not_here
def test_dynamic_int8_tells_most_of_the_story(story, told, tmp_path):
    dynamic = rewritten(
        story, tmp_path / "dynamic.onnx", lambda model, linears: quantize_linears(linears, per_channel=True, limit=127)
    )
    sqnr_db, agreement = closeness(story, dynamic, told)
    assert sqnr_db > 28
    assert agreement > 0.9
    assert equal_tokens(dynamic.greedy(), told) >= 30
