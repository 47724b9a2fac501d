"""Overrides as users type them, and the one line they get when they mistype."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import typing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import compress.stages
from compress.config import compose
from compress.config.compose import PATH_KEYS, STAGE_PATHS, compose_tree, expand_sweep, override_keys, typed_stages
from compress.config.schema import RunConfig
from compress.core.errors import ConfigError
from compress.core.stage import Stage
from compress.support.resources import conf_folder, describe_choices

TARGETS = list(describe_choices(conf_folder() / "target"))


def stages(*overrides, target="jetson_nano"):
    return compose_tree([f"target={target}", *overrides])["stage"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["", "precision=fp32", "precision=fp16", "precision=int8"])
def test_every_recipe_composes_in_every_precision(target, precision):
    tree = compose_tree([f"target={target}", *filter(None, [precision])])
    assert tree["target"] == {"name": target}
    assert all("_target_" in stage for stage in tree["stage"].values())


def with_all_that_is_needed(overrides):
    try:
        return compose_tree(overrides)
    except ConfigError as error:
        needed = re.fullmatch(r"(\S+) is needed and not given", error.problem)
        if needed is None:
            raise
        return with_all_that_is_needed([*overrides, f"{needed[1]}=x"])


@pytest.mark.parametrize("group", ["model", "data", "logger"])
def test_every_choice_composes(group):
    for name in describe_choices(conf_folder() / group):
        assert with_all_that_is_needed(["target=jetson_nano", f"{group}={name}"])[group]


def test_a_choice_that_needs_a_value_says_which():
    with pytest.raises(ConfigError, match=r"model.factory.*fix: model.factory=<value>"):
        compose_tree(["target=jetson_nano", "model=factory"])


def test_every_choice_has_a_description():
    for group in ("target", "model", "data", "logger", "stage"):
        assert all(describe_choices(conf_folder() / group).values())


def test_the_nano_picks_fp16_itself():
    assert list(stages()) == ["fold_batchnorm", "to_onnx_fp32", "magnitude", "fp16", "to_onnx", "to_tensorrt"]


def test_precision_swaps_the_stage_in_place():
    assert list(stages("precision=int8")) == [
        "fold_batchnorm",
        "to_onnx_fp32",
        "magnitude",
        "ptq_static",
        "to_onnx",
        "to_tensorrt",
    ]
    assert list(stages("precision=fp32"))[-3:] == ["magnitude", "to_onnx", "to_tensorrt"]


def test_override_drop_and_add_a_stage():
    assert stages("stage.magnitude.amount=0.7")["magnitude"]["amount"] == 0.7
    assert "magnitude" not in stages("~stage.magnitude")
    added = stages("+stage@stage.x=magnitude", "stage.x.before=to_onnx", "stage.x.amount=0.1")
    assert list(added)[-1] == "x"
    assert added["x"]["amount"] == 0.1


def test_a_folder_of_the_users_own(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine.yaml").write_text(
        "# @package _global_\n# Mine\ndefaults:\n  - /stage@stage.to_onnx: to_onnx\n  - _self_\n"
        "target: {name: raspberry_pi_4}\nprecision: fp32\n"
    )
    assert list(compose_tree(["target=mine"], tmp_path)["stage"]) == ["to_onnx"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["target=jetson_nanno"], "unknown target 'jetson_nanno': did you mean 'jetson_nano'"),
        ([], "no target given | fix: target=<one of jetson_nano"),
        (["targt=jetson_nano"], "unknown key 'targt'.*did you mean 'target'"),
        (
            ["target=jetson_nano", "stage.magnitude.amout=0.7"],
            "unknown key 'stage.magnitude.amout': did you mean 'amount'",
        ),
        (["target=jetson_nano", "stage.magnitud.amount=0.7"], "unknown key 'stage.magnitud': did you mean 'magnitude'"),
        (["target=jetson_nano", "~stage.magnitud"], "unknown key 'stage.magnitud': did you mean 'magnitude'"),
        (["target=jetson_nano", "precison=fp16"], "unknown key 'precison'.*did you mean 'precision'"),
        (["target=jetson_nano", "precision=fp61"], "unknown precision 'fp61': did you mean 'fp16'"),
        (["target=jetson_nano", "model=resnet81"], "unknown model 'resnet81': did you mean 'resnet18'"),
        (["target=jetson_nano", "+stage@stage.x=magnitud"], "unknown stage 'magnitud': did you mean 'magnitude'"),
        (["target=jetson_nano,raspberry_pi_4"], "fix: add -m"),
        (["target=jetson_nano", "a b=("], r"cannot read the override 'a b=\('"),
        (["target=jetson_nano", "hydra.run.dir=x"], "Hydra's own settings are not used here"),
        (["target=jetson_nano", "seed=${nope}"], "Interpolation key 'nope' not found"),
    ],
)
def test_mistakes_name_the_nearest_valid_choice(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compose_tree(overrides)
    assert "\n" not in str(caught.value)


def test_sweep_expands_to_every_combination_in_order():
    combinations = expand_sweep(["target=a,b", "stage.magnitude.amount=0.3,0.5", "~stage.x", "data.mean=[1,2]"])
    assert combinations == [
        (f"target={target}", f"stage.magnitude.amount={amount}", "~stage.x", "data.mean=[1,2]")
        for target in ("a", "b")
        for amount in ("0.3", "0.5")
    ]


def test_keys_that_were_typed():
    assert override_keys(["trust=[nets]", "~stage.x", "+stage@stage.y=fp16"]) == {"trust", "stage.x", "stage"}


PRINTABLE = st.characters(exclude_categories=("C", "Zl", "Zp"))


@given(
    st.text(PRINTABLE, min_size=1, max_size=30),
    st.sampled_from([*sorted(PATH_KEYS), "stage.my-prune.layer_times"]),
    st.sampled_from(["", "+", "++"]),
)
@example("/home/Jürgen", "output", "")
@example("a b=c,d", "output", "")
@example("it's", "output", "")
@example("back\\", "output", "")
@example("\\' \\\\${x", "output", "")
@example("2024", "output", "")
@example("choice(a,b)", "output", "")
@settings(max_examples=300, deadline=None)
def test_paths_are_taken_as_they_were_typed(path, key, prefix):
    assume(path.strip().lower() != "null" and path != "???")  # no file, and none given
    assume(not re.search(r"\$\{.+\}", path))  # an interpolation
    assume(not (path[0] in "'\"" and path[0] == path[-1]))  # in quotes already
    (override,) = compose._parse([f"{prefix}{key}={path}"])
    assert override.key_or_group == key
    tree = OmegaConf.create({"path": override.value()})
    assert OmegaConf.to_container(tree, resolve=True) == {"path": path}


@pytest.mark.parametrize("path", ["/home/Jürgen", "a b", "a=b,c", "it's", "$x", "${", "100%", "#1", "~", "true", "1e3"])
def test_output_is_a_folder_with_any_name(path):
    assert compose_tree(["target=jetson_nano", f"output={path}"])["output"] == path
    ((_, swept),) = expand_sweep(["target=jetson_nano", f"output={path.replace(',', '')}"])
    assert compose_tree(["target=jetson_nano", swept])["output"] == path.replace(",", "")


def test_the_grammar_of_overrides_still_works_in_paths():
    tree = compose_tree(["target=jetson_nano", "output=/home/Jürgen/${seed}", "seed=3", "device.inventory=null"])
    assert (tree["output"], tree["device"]["inventory"]) == ("/home/Jürgen/3", None)
    for quoted in ("'/home/Jürgen'", '"/home/Jürgen"'):
        assert compose_tree(["target=jetson_nano", f"output={quoted}"])["output"] == "/home/Jürgen"


@pytest.mark.parametrize("typed", ["Jürgen/a,b c", "'Jürgen/a','b c'", "choice('Jürgen/a','b c')"])
def test_paths_can_be_swept_over(typed):
    combinations = expand_sweep(["target=jetson_nano", f"output={typed}"])
    outputs = [compose_tree(combination)["output"] for combination in combinations]
    assert outputs == ["Jürgen/a", "b c"]


def test_a_folder_of_configurations_may_have_any_name(tmp_path):
    folder = tmp_path / "Jürgen's ${x} folder, 100%"
    (folder / "target").mkdir(parents=True)
    (folder / "target" / "mine.yaml").write_text(
        "# @package _global_\n# Mine\ntarget: {name: raspberry_pi_4}\nstage: {}\n"
    )
    assert compose_tree(["target=mine"], folder)["target"] == {"name": "raspberry_pi_4"}


def path_fields(kind: object, prefix: str = "") -> set[str]:
    """Dotted names of the fields of a model (or of any member of a union) that hold paths."""
    found: set[str] = set()
    for option in (kind, *typing.get_args(kind)):
        for name, field in getattr(option, "model_fields", {}).items():
            if Path in (field.annotation, *typing.get_args(field.annotation)):
                found.add(prefix + name)
            found |= path_fields(field.annotation, f"{prefix}{name}.")
        if typing.get_args(option) and option is not kind:
            found |= path_fields(option, prefix)
    return found


def test_every_path_of_the_configuration_is_known():
    assert path_fields(RunConfig) == PATH_KEYS
    for module in pkgutil.walk_packages(compress.stages.__path__, "compress.stages."):
        for stage in vars(importlib.import_module(module.name)).values():
            if isinstance(stage, type) and issubclass(stage, Stage):
                assert path_fields(stage) <= STAGE_PATHS


def test_stages_the_user_named_and_those_taken_away():
    typed = ["+stage@stage.ts=to_torchscript", "stage.magnitude.amount=0.7", "~stage.fold_batchnorm", "precision=int8"]
    assert typed_stages(["target=jetson_nano", *typed]) == {"ts", "magnitude"}


@pytest.mark.parametrize(
    "typed", ["~stage@stage.to_onnx_fp32", "~stage@stage.to_onnx_fp32=to_onnx", "~stage.to_onnx_fp32"]
)
def test_a_stage_is_taken_away_whole_however_it_is_typed(typed):
    """Also one that the recipe gave an option, which would stay behind without its class."""
    assert list(compose_tree(("target=raspberry_pi_4", typed))["stage"]) == [
        "fold_batchnorm",
        "magnitude",
        "ptq_static",
        "to_onnx",
    ]
    with pytest.raises(ConfigError, match=r"unknown key 'stage.nothing': allowed: fold_batchnorm"):
        compose_tree(("target=raspberry_pi_4", typed.replace("to_onnx_fp32", "nothing")))


MALFORMED = {
    "depth": ("seed=" + "[" * 5000, "nested more than 32 deep"),
    "closed depth": ("seed=" + "[" * 400 + "]" * 400, "nested more than 32 deep"),
    "digits": ("seed=" + "9" * 5000, "cannot read the override"),
    "wide": ("seed=99999999999999999999", "an integer in .* does not fit 64 bits"),
    "wide inside": ("stage.x={a:[99999999999999999999]}", "does not fit 64 bits"),
    "long": ("seed=" + "x" * 70_000, "more than 65,536 characters"),
    "syntax": ("seed={a:b", "cannot read the override"),
    "itself": ("seed=${seed}", "configuration: "),
    "yaml in a text": ("seed=${oc.create:'a: [1'}", "configuration: "),
    "grammar in a text": ("output=${oc.decode:'[[[['}", "configuration: "),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_override_is_one_line(kind):
    override, message = MALFORMED[kind]
    with pytest.raises(ConfigError, match=message) as caught:
        compose_tree(["target=jetson_nano", override])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("sweep", ["seed=range(0,1e400)", "seed=range(1,5,0)", "seed=range(0,200000)"])
def test_a_sweep_without_end_is_refused(sweep):
    with pytest.raises(ConfigError, match=r"more than 10,000 combinations|cannot sweep"):
        expand_sweep(["target=jetson_nano", sweep])


def choice(folder, text: str, group: str = "data") -> Path:
    (folder / group).mkdir(exist_ok=True)
    (folder / group / "mine.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    return folder


def test_interpolations_that_multiply_are_refused(tmp_path):
    lines = ["r0: xxxxxxxxxx", *(f"r{n}: ${{data.r{n - 1}}}${{data.r{n - 1}}}" for n in range(1, 40))]
    with pytest.raises(ConfigError, match="78 interpolations in"):
        compose_tree(["target=jetson_nano", "data=mine"], choice(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize("levels", [30, 0])
def test_lists_of_defaults_that_multiply_or_lead_in_a_circle_are_refused(tmp_path, levels):
    for level in range(levels + 1):
        after = min(level + 1, levels)
        text = f"defaults:\n - /data@data.a: d{after}\n - /data@data.b: d{after}\n"
        (choice(tmp_path, text) / "data" / "mine.yaml").rename(tmp_path / "data" / f"d{level}.yaml")
    with pytest.raises(ConfigError, match=r"the lists of defaults multiply: data/d\d+ and others"):
        compose_tree(["target=jetson_nano", "+data@data.tree=d0"], tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", r"mine\.yaml, line 1: the alias \*a lies in"),
        ("a: !!set {x}", "the tag '!!set' names a type"),
        ("[" * 5000, "nest"),
        ("- a", "is no mapping"),
        ("a: [" + "1," * 6000 + "]", "more than 5,000 values"),
        ("1: a", "the key 1 is no text"),
        ("a: \udcff", "it is not UTF-8 text"),
        ("# @package a b c\na: 1", "configuration: Too many components"),
        ("a: ${data.a}", "leads to itself|configuration: "),
        ("defaults: [mine]\na: 1", "configuration: "),
        ("defaults: 1", "configuration: "),
        ("defaults:\n - [a]", "configuration: "),
    ],
)
def test_a_malformed_file_of_the_users_own_is_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compose_tree(["target=jetson_nano", "data=mine"], choice(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_configuration_that_is_a_fifo_is_not_waited_for(tmp_path):
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "data" / "mine.yaml")
    with pytest.raises(ConfigError, match="unknown data 'mine'"):
        compose_tree(["target=jetson_nano", "data=mine"], tmp_path)


ALPHABET = "[]{}(),:='\"\\${}~+@.-_ \t\n#%*&!0123456789eExyznultrue/\x1b\udcff\u202eä"
KEYS = st.sampled_from(["seed", "output", "stage.x", "+a", "++a.b", "~seed", "+stage@stage.x", "model.input", "", "="])


def check_override(key: str, value: str, sweep: bool) -> None:
    overrides = ["target=jetson_nano", f"{key}={value}"]
    try:
        combinations = expand_sweep(overrides) if sweep else [overrides]
        compose_tree(combinations[0])
    except ConfigError as refusal:
        line = str(refusal)
        assert "\n" not in line


@given(KEYS, st.text(ALPHABET, max_size=30), st.booleans())
@example("seed", "${oc.decode:'" + "9" * 5000 + "'}", False)
@example("seed", "int('" + "9" * 5000 + "')", True)
@example("+a", "shuffle(range(1,9))", True)
@settings(max_examples=60, deadline=None)
def test_any_override_is_taken_or_one_line(key, value, sweep):
    check_override(key, value, sweep)


@pytest.mark.slow
@given(KEYS, st.text(ALPHABET, max_size=60), st.booleans())
@settings(max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_many_overrides_are_taken_or_one_line(key, value, sweep):
    check_override(key, value, sweep)
