"""Names in a configuration become names of files, so they are names and nothing else."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compress.__main__ import main
from compress.config.schema import build_stages, load_target
from compress.core.errors import ConfigError

NODE = {"_target_": "compress.stages.export.to_onnx.ToOnnx"}
BAD = [
    "../../x",
    "/etc/x",
    "a/b",
    "a\\b",
    "..",
    "",
    "a.b",
    "-a",
    "a b",
    "a\n",
    "a\nerror: forged",
    "é",
    "a" * 65,
    "source",
    "Source",
    "golden",
    "report",
    "MANIFEST",
    "bundle",
    "entry",
    "device-kitchen",
    "inputs",
    "file",
    "trace",
    "profile",
]


@pytest.mark.parametrize("name", BAD)
def test_a_stage_name_that_is_no_name_is_refused_in_one_line(name):
    with pytest.raises(ConfigError, match=r"stage name .* fix: ") as error:
        build_stages({name: NODE}, lambda _: False)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_a_profile_may_be_called_profile():
    node = {"_target_": "compress.stages.inspect.profile.Profile"}
    assert list(build_stages({"profile": node}, lambda _: False)) == ["profile"]


def test_names_that_differ_in_case_only_are_refused():
    with pytest.raises(ConfigError, match="stage names 'a' and 'A' differ in case only"):
        build_stages({"a": NODE, "A": NODE}, lambda _: False)


@given(st.from_regex(r"\A[A-Za-z0-9_]{1,64}\Z").filter(lambda name: name.lower() not in {*BAD, "manifest"}))
def test_ordinary_names_are_taken(name):
    reserved = {"module", "labels", "reference", "allow_pickle"}
    if name.lower() not in reserved:
        assert list(build_stages({name: NODE}, lambda _: False)) == [name]


@pytest.mark.parametrize("name", ["../../x", "../jetson_nano", "/etc/passwd", "a\nb", "A", "a" * 65])
def test_a_target_name_that_is_no_name_is_not_looked_for(tmp_path, name):
    (tmp_path / "targets").mkdir()
    with pytest.raises(ConfigError, match="no device profile ") as error:
        load_target(name, [tmp_path / "targets"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("stage", "target", "message"),
    [
        ("../../../../escaped", "raspberry_pi_4", "stage name '../../../../escaped'"),
        ("to_onnx", "../../raspberry_pi_4", "no device profile '../../raspberry_pi_4'"),
    ],
)
def test_a_strangers_recipe_writes_nothing_outside(tmp_path, monkeypatch, capsys, stage, target, message):
    (tmp_path / "conf" / "target").mkdir(parents=True)
    recipe = {"target": {"name": target}, "precision": "fp32", "stage": {stage: NODE}}
    text = f"# @package _global_\n# Theirs\n{yaml.safe_dump(recipe)}"
    (tmp_path / "conf" / "target" / "theirs.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert main(["target=theirs", "--config-dir", str(tmp_path / "conf")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conf"]
