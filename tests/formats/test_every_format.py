"""Every format is asked every question: it answers, or says why it cannot."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from bundle_factory import SPEC, onnx_network, tflite_network
from torch import nn

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, Precision
from compress.core.errors import CompressError
from compress.core.target import Deployment
from compress.formats import registry
from compress.formats.base import NotMeasured, OpenFile, Profiler
from compress.formats.registry import by_suffix, device_runtime, open_file, release_large, support_of, supports
from compress.formats.runner import Runner
from compress.support import versions
from compress.support.resources import describe_choices, targets_folder

QUESTIONS = {
    "runner": lambda file, folder: file.runner(threads=1),
    "answers": lambda file, folder: file.answers(),
    "reference": lambda file, folder: file.reference(),
    "pattern": lambda file, folder: file.pattern(2, 4),
    "activations": lambda file, folder: file.activations(np.ones((1, *SPEC.shape), np.float32)),
    "self_contained": lambda file, folder: file.self_contained(folder),
}
"""Those with arguments; all others of `OpenFile` are asked without any."""

ASKED = sorted(name for name, member in vars(OpenFile).items() if callable(member) and not name.startswith("_"))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def artifact(format: Format, folder: Path) -> Artifact:
    """A small classifier in `format`; an engine of bytes that no TensorRT made."""
    if format is Format.TORCH:
        return Artifact(format, network(), Precision.FP32, SPEC)
    path = folder / f"net{support_of(format).suffixes[0]}"
    if format is Format.ONNX:
        onnx_network(path)
    elif format is Format.TORCHSCRIPT:
        torch.jit.freeze(torch.jit.trace(network(), torch.zeros(1, *SPEC.shape))).save(str(path))
    elif format is Format.TENSORRT:
        path.write_bytes(b"no engine")
    else:
        tflite_network(path)
    integers = format in (Format.TFLITE, Format.EDGETPU)
    return Artifact(format, path, Precision.INT8 if integers else Precision.FP32, SPEC, dynamic_batch=False)


def outcome(file: OpenFile, question: str, folder: Path) -> object:
    """The answer, or what was raised instead."""
    ask = QUESTIONS.get(question, lambda file, folder: getattr(file, question)())
    try:
        return ask(file, folder)
    except (NotMeasured, CompressError) as reason:
        return reason


@pytest.mark.parametrize("question", ASKED)
@pytest.mark.parametrize("format", Format)
def test_it_answers_or_says_why_not(format, question, tmp_path):
    answer = outcome(open_file(artifact(format, tmp_path)), question, tmp_path / "folder")
    if isinstance(answer, NotMeasured):
        assert len(str(answer)) > 10
    elif isinstance(answer, CompressError):  # what only a device runs, and what its runtime refuses
        assert question in ("runner", "answers", "reference"), answer
        assert format in (Format.EDGETPU, Format.TENSORRT), answer
    else:
        assert (answer is None) == (question == "release")


@pytest.mark.parametrize("format", [Format.TORCH, Format.ONNX, Format.TORCHSCRIPT, Format.TFLITE])
def test_what_runs_here_gives_the_same_logits_however_it_is_asked(format, tmp_path):
    file = open_file(artifact(format, tmp_path))
    images = np.random.default_rng(0).normal(size=(3, *SPEC.shape)).astype(np.float32)
    runners: list[Runner] = [file.runner(threads=1), file.answers(), file.reference()]
    first, *others = [run(images) for run in runners]
    assert first.shape == (3, 4)
    for logits in others:
        np.testing.assert_allclose(logits, first, atol=1e-4)


def test_every_member_has_a_support_of_its_own():
    assert [support.format for support in supports()] == list(Format)


@pytest.mark.parametrize("format", Format)
def test_a_support_knows_its_suffixes_tools_and_profiler(format):
    support = support_of(format)
    for suffix in support.suffixes:
        assert by_suffix(Path(f"Net{suffix.upper()}")) is support
    assert set(support.tools) <= versions.tool_versions().keys(), "a new version of a tool has to make stages new"
    known = support.profiler
    assert importlib.util.find_spec(known.module) if isinstance(known, Profiler) else len(known) > 10
    assert support.made_elsewhere
    for precision, architecture in itertools.product(Precision, ("x86_64", "aarch64")):
        reason = support.emulation(precision, architecture)
        assert reason is None or len(reason) > 10


@pytest.mark.parametrize("format", Format)
def test_a_source_is_loaded_or_the_reason_is_given(format, tmp_path):
    made = artifact(format, tmp_path)
    path = tmp_path / "net" if format is Format.TORCH else made.path
    if support_of(format).is_source:
        assert support_of(format).load_source(path, SPEC).format is format
    else:
        with pytest.raises(NotMeasured):
            support_of(format).load_source(path, SPEC)


def test_no_two_formats_share_a_suffix():
    suffixes = [suffix for support in supports() for suffix in support.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert by_suffix(Path("photo.png")) is None
    assert by_suffix(Path("net_edgetpu.tflite")).format is Format.EDGETPU, "the longest suffix wins"


def test_targets_name_runtimes_that_a_format_has():
    """A hand-kept list may not miss one."""
    known = {name for support in supports() for name in support.device_runtimes}
    assert known == set(get_args(Deployment.model_fields["runtime"].annotation))
    for name in describe_choices(targets_folder()):
        for kind, deployment in load_target(name, []).deployment.items():
            assert deployment.runtime in support_of(kind).device_runtimes, f"{name}: {kind}"


@pytest.mark.parametrize("format", [member for member in Format if member is not Format.TORCH])
def test_a_delivered_format_has_a_runtime_for_boards(format):
    name, how = device_runtime(format, None)
    assert device_runtime(format, name) == (name, how)
    assert how.modules
    assert how.cpu_flags["aarch64"] == ("asimd",)
    agent = Path(registry.__file__).parents[1] / "device" / "agent"
    runners = agent / "runners"
    text = "".join(path.read_text() for path in agent.rglob("*.py"))
    assert (runners / f"{how.runner}.py").exists() if runners.exists() else f'"{how.runner}":' in text
    assert any(f"import {module}" in text or f"from {module}" in text for module in how.modules)


def test_a_module_runs_on_no_board():
    with pytest.raises(NotMeasured, match="torch runs on no device"):
        device_runtime(Format.TORCH, None)


@pytest.fixture
def parsed(monkeypatch):
    """Paths of the ONNX files that were parsed."""
    paths, real = [], onnx.load

    def load(path, *arguments, **options):
        paths.append(Path(path).name)
        return real(path, *arguments, **options)

    monkeypatch.setattr(onnx, "load", load)
    return paths


def test_a_file_is_parsed_once_however_much_is_asked(parsed, tmp_path):
    made = artifact(Format.ONNX, tmp_path)
    for _ in range(2):
        file = open_file(made)
        file.parameters(), file.macs(), file.sparsity(), file.size(), file.opset(), file.needs(), file.in_7_bits()
        file.layers(), file.pattern(2, 4)
    assert parsed == ["net.onnx"]


def test_a_file_that_changed_is_parsed_again(parsed, tmp_path):
    made = artifact(Format.ONNX, tmp_path)
    assert open_file(made).opset() == 17
    onnx_network(made.path, opset=13)
    state = made.path.stat()
    os.utime(made.path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert open_file(made).opset() == 13
    assert parsed == ["net.onnx", "net.onnx"]


def test_a_large_file_is_let_go_and_its_answers_are_kept(parsed, tmp_path, monkeypatch):
    made = artifact(Format.ONNX, tmp_path)
    file = open_file(made)
    assert (file.opset(), len(file.layers()) > 0) == (17, True)
    release_large()
    file.parameters()
    assert len(parsed) == 1, "it is small"
    monkeypatch.setattr(registry, "_KEPT_BYTES", 10)
    release_large()
    assert (file.opset(), len(file.layers()) > 0) == (17, True)
    assert len(parsed) == 1, "answers are kept"
    file.parameters()
    assert len(parsed) == 2


def test_few_files_stay_open(tmp_path):
    made = artifact(Format.ONNX, tmp_path)
    for number in range(registry._MOST_OPEN + 3):
        path = shutil.copy(made.path, tmp_path / f"{number}.onnx")
        open_file(Artifact(Format.ONNX, Path(path), Precision.FP32, SPEC)).opset()
    assert len(registry._opened) == registry._MOST_OPEN


def test_two_precisions_of_one_file_are_not_the_same_open_file(tmp_path):
    made = artifact(Format.ONNX, tmp_path)
    other = Artifact(Format.ONNX, made.path, Precision.INT8, SPEC, dynamic_batch=False)
    assert open_file(made) is open_file(made)
    assert open_file(made) is not open_file(other)
