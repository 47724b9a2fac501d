"""Device profiles: facts with sources, and errors that name the nearest key."""

from __future__ import annotations

import pytest
import yaml

from compress.config.schema import load_target
from compress.core.artifact import Format, Precision
from compress.core.errors import ConfigError, Refusal
from compress.support.resources import conf_folder, describe_choices, targets_folder

NAMES = sorted(path.stem for path in targets_folder().glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_loads_and_has_a_recipe(name):
    target = load_target(name, [])
    assert target.name == name
    assert name in describe_choices(conf_folder() / "target")
    assert any(support.value for support in target.precisions.values())
    if target.precisions[Precision.INT8].value:
        assert target.int8 is not None


def test_known_facts():
    nano, xavier = load_target("jetson_nano", []), load_target("jetson_xavier_nx", [])
    assert nano.onnx_opset_max is not None
    assert nano.onnx_opset_max.value == 13
    assert xavier.onnx_opset_max is not None
    assert xavier.onnx_opset_max.value == 17
    assert not nano.precisions[Precision.INT8].value
    assert xavier.int8 is not None
    assert xavier.int8.placement == "tensorrt"
    orin = load_target("jetson_orin_nano", [])
    assert orin.sparse_weights is not None
    assert orin.sparse_weights.pattern == "2:4"
    assert orin.peak_flops[Precision.INT8].value == 20e12  # dense
    jetpack6 = load_target("jetson_orin_nano_jp6", [])
    assert jetpack6.onnx_parser is not None
    assert jetpack6.onnx_parser.value == "tensorrt_10_3"
    assert jetpack6.tensorrt_version == "10.3.0"
    assert (xavier.dla_cores, nano.dla_cores, orin.dla_cores) == (2, 0, 0)
    assert load_target("raspberry_pi_4", []).bandwidth_bytes_per_s.value == 12.8e9
    coral = load_target("coral", [])
    assert coral.tflite is not None
    assert (coral.tflite.io, coral.tflite.full_integer, coral.tflite.lacks) == (
        "uint8",
        True,
        ("HARD_SWISH", "LEAKY_RELU", "GELU"),
    )
    assert not coral.precisions[Precision.FP32].value


@pytest.mark.parametrize("name", NAMES)
def test_what_people_read_says_what_the_program_computes_with(name):
    target = load_target(name, [])
    compute, runtime = target.compute.value, target.runtime.value
    assert target.cores is None or compute.startswith(f"{target.cores}x ")
    assert ("DLA" in compute) == (f"{target.dla_cores} DLA" in compute) == (target.dla_cores > 0)
    assert ("TensorRT" in runtime) == (target.tensorrt_version is not None)
    assert target.tensorrt_version is None or f"TensorRT {target.tensorrt_version} " in runtime


def test_a_profile_of_before_needs_none_of_the_typed_facts(tmp_path):
    facts = yaml.safe_load((targets_folder() / "jetson_xavier_nx.yaml").read_text())
    for name in ("dla_cores", "tensorrt_version"):
        del facts[name]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(facts))
    target = load_target("mine", [tmp_path])
    assert (target.cores, target.dla_cores, target.tensorrt_version) == (None, 0, None)


def test_a_refused_format_says_why():
    with pytest.raises(Refusal, match=r"cannot run torchscript files: its last PyTorch is 1.10"):
        load_target("jetson_nano", []).require_format(Format.TORCHSCRIPT, stage="to_torchscript")


def broken(tmp_path, change):
    facts = yaml.safe_load((targets_folder() / "jetson_nano.yaml").read_text())
    change(facts)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(facts))
    return pytest.raises(ConfigError), tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(memory_byte=1), "unknown key .*memory_byte.*did you mean 'memory_bytes'"),
        (lambda f: f["compute"].pop("source"), "compute.source is missing"),
        (
            lambda f: f["memory_bytes"].update(value="lots"),
            r"memory_bytes.value='lots': input should be a valid integer",
        ),
        (lambda f: f.update(cores=0), r"cores=0: input should be greater than or equal to 1"),
        (lambda f: f.update(tensorrt_version="8.2"), r"tensorrt_version='8.2': string should match pattern"),
        (lambda f: f.update(tensorrt_version=8.2), r"tensorrt_version=8.2: input should be a valid string"),
        (lambda f: f.update(dla_cores=-1), r"dla_cores=-1: input should be greater than or equal to 0"),
        (lambda f: f["runtime"].update(sorce="a web page"), "unknown key .*runtime.sorce.*did you mean 'source'"),
    ],
)
def test_a_wrong_profile_names_the_key(tmp_path, change, message):
    facts = yaml.safe_load((targets_folder() / "jetson_nano.yaml").read_text())
    change(facts)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(facts))
    with pytest.raises(ConfigError, match=message):
        load_target("mine", [tmp_path])


def test_a_misspelt_profile_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'jetson_nano'"):
        load_target("jetson_nanno", [])


def test_text_that_is_not_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_target("mine", [tmp_path])
