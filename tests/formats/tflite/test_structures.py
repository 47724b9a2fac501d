"""What Coral's file is for each structure that networks are made of: all of them slowly, eight of them always."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from doubles import ArraySplit, stage_context
from structures import INTEGERS, MAPPED, STRUCTURES, Structure

from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import StageError
from compress.core.stage import Context
from compress.formats import runtimes
from compress.formats.edgetpu.preflight import preflight
from compress.stages.export.to_tflite import ToTflite
from compress.stages.quantize.ptq_static import PtqStatic

pytest.importorskip("litert_torch", reason="needs the extra tflite")

from compress.formats.tflite.network import read_network

SPEC = InputSpec((3, 32, 32))
IMAGES = np.random.default_rng(0).standard_normal((8, *SPEC.shape)).astype(np.float32)
ALWAYS = ("lenet", "flatten_relu", "asymmetric_pad", "nearest", "transposed_k3s2p1_output_padding", "conv1d", "square")
ALWAYS = (*ALWAYS, "nearest_factor")
MOST_STEPS = 4.01
"""Of the output's scale, between the file and its reference. Every operator by itself is within one code; an average
that ends in a half is one code off (see below), and one code of it is up to three finer ones behind the last Linear."""

MEAN_STEPS = 0.5
OF_FOUR = {"avg_pool": 1.2, "bn_behind_pool": 1.2, "lenet_tanh": 1.5}
"""Averages of four end in a half every fourth time, which the kernel rounds up and PyTorch to even."""

LEAST_DB = 20.0
"""Signal to noise against FP32, for random weights; what is clipped or out of order has less."""


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    split = ArraySplit(IMAGES)

    class Splits:
        classes = ("a", "b", "c", "d", "e")
        calibration = finetune = validation = evaluation = split

    folder = tmp_path_factory.mktemp("structures")
    return stage_context("export", target="coral", splits=Splits(), folder=folder)


def judged(structure: Structure, context: Context) -> None:
    """Quantize, convert and compare; or be refused as the table says."""
    torch.manual_seed(0)
    source = Artifact(Format.TORCH, structure.build().eval(), Precision.FP32, SPEC, history=("source",))
    if structure.verdict not in (MAPPED, INTEGERS):
        with pytest.raises(StageError) as error:
            ToTflite().run(PtqStatic().run(source, context), context)
        assert re.search(structure.verdict, str(error.value))
        assert "\n" not in str(error.value)
        return
    quantized = PtqStatic().run(source, context)
    exported = ToTflite().run(quantized, context)  # refuses whatever is not an integer, or newer than Coral's runtime
    network = read_network(exported.path)
    prediction = preflight(network)
    assert (prediction.share == 1.0) is (structure.verdict == MAPPED), prediction.summary()
    given, wanted, exact = (runtimes.load(artifact, threads=1)(IMAGES) for artifact in (exported, quantized, source))
    steps = np.abs(given - wanted) / network.outputs[0].quantization.scale[0]
    assert steps.max() <= MOST_STEPS
    assert steps.mean() <= OF_FOUR.get(structure.name, MEAN_STEPS)
    noise = np.sum((given.astype(np.float64) - exact) ** 2)
    assert 10 * np.log10(np.sum(exact.astype(np.float64) ** 2) / noise) >= LEAST_DB


@pytest.mark.parametrize("structure", [s for s in STRUCTURES if s.name in ALWAYS], ids=lambda s: s.name)
def test_a_few_structures(structure, context):
    judged(structure, context)


@pytest.mark.slow
@pytest.mark.parametrize("structure", [s for s in STRUCTURES if s.name not in ALWAYS], ids=lambda s: s.name)
def test_every_structure(structure, context):
    judged(structure, context)


def test_the_table_is_what_it_claims():
    names = [structure.name for structure in STRUCTURES]
    assert len(set(names)) == len(names) >= 110
    assert set(ALWAYS) <= set(names)
    assert sum(structure.verdict in (MAPPED, INTEGERS) for structure in STRUCTURES) >= 85
