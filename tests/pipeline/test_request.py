"""What a request comes to before anything is loaded: which data, which stages, which feed which."""

from __future__ import annotations

import pytest

from compress.core.errors import ConfigError, Refusal
from compress.pipeline.request import Request, plan_run

ONNX = ("model=file", "model.path=model.onnx", "data=npz", "data.file=images.npz")
PI = "target=raspberry_pi_4"


def route(*overrides: str) -> dict[str, str]:
    return {step.name: step.feed for step in plan_run(Request(overrides)).pipeline.steps}


def test_without_pruning_int8_is_still_made_of_the_module():
    assert route(PI, "~stage.magnitude") == {
        "fold_batchnorm": "source",
        "to_onnx_fp32": "fold_batchnorm",
        "ptq_static": "fold_batchnorm",
        "to_onnx": "ptq_static",
    }


@pytest.mark.parametrize(
    ("target", "steps"),
    [
        ("raspberry_pi_4", ["to_onnx_fp32", "ptq_static", "to_onnx"]),
        ("raspberry_pi_5", ["to_onnx_fp32", "ptq_static", "to_onnx"]),
        ("jetson_nano", ["to_onnx_fp32", "fp16", "to_onnx", "to_tensorrt"]),
        ("jetson_xavier_nx", ["to_onnx_fp32", "ptq_static", "to_onnx", "to_tensorrt"]),
        ("jetson_orin_nano", ["to_onnx_fp32", "ptq_static", "to_onnx", "to_tensorrt"]),
        ("jetson_orin_nano_jp6", ["to_onnx_fp32", "ptq_static", "to_onnx", "to_tensorrt"]),
        ("coral", ["ptq_static", "to_tflite", "to_edgetpu"]),
    ],
)
def test_an_onnx_file_goes_through_every_recipe(target, steps):
    pipeline = plan_run(Request((f"target={target}", *ONNX))).pipeline
    assert [step.name for step in pipeline.steps] == steps
    assert [absent.stage for absent in pipeline.left_out] == ["fold_batchnorm", "magnitude"]
    quantizer = next(step for step in pipeline.steps if step.name in ("ptq_static", "fp16"))
    assert quantizer.feed == "source"


@pytest.mark.parametrize(
    "typed", ["stage.magnitude.amount=0.5", "+stage@stage.two=magnitude stage.two.before=ptq_static"]
)
def test_pruning_that_was_typed_refuses_an_onnx_file(typed):
    with pytest.raises(
        Refusal, match=r"takes torch, but only onnx comes before it: the weights of an ONNX file are fro"
    ):
        plan_run(Request((PI, *ONNX, *typed.split())))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (["model=resnet18"], "resnet18"),
        (["model=torchvision", "model.name=alexnet"], "alexnet"),
        (["model=file", "model.path=model.pt2"], "file"),
        (["model=factory", "model.factory=nets:net"], "factory"),
    ],
)
def test_the_embedded_digits_are_for_the_embedded_model(model, name):
    with pytest.raises(
        ConfigError, match=rf"data= is needed for model={name}: .* belong to model=digits \| fix: data="
    ):
        plan_run(Request((PI, *model)))
    assert plan_run(Request((PI, *model, "data=digits"))).config.data.kind == "digits"


def test_the_embedded_model_takes_other_data():
    assert plan_run(Request((PI, "data=npz", "data.file=x.npz"))).config.data.kind == "npz"


def test_a_configuration_brings_no_inventory(tmp_path):
    """An inventory may name an SSH configuration, and that a program."""
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "board.yaml").write_text(
        "# @package _global_\ndefaults:\n  - raspberry_pi_4\n  - _self_\ndevice:\n  inventory: theirs.yaml\n"
    )
    with pytest.raises(ConfigError, match=r"device.inventory is only honoured on the command line"):
        plan_run(Request(("target=board",), tmp_path))
    assert plan_run(Request(("target=board", "device.inventory=mine.yaml"), tmp_path)).config.device.inventory


@pytest.mark.parametrize("name", ["net.tflite", "NET.TFLITE", "renamed.onnx"])
def test_a_tflite_file_is_told_what_can_be_done_with_it(tmp_path, name):
    """By its name or by its first bytes, and before anybody is asked for data."""
    path = tmp_path / name
    path.write_bytes(b"\x1c\0\0\0TFL3")
    with pytest.raises(ConfigError, match=r"the end of a run: .* compress\.device\.preflight .* fix: for a run, name"):
        plan_run(Request((PI, "model=file", f"model.path={path}")))
