"""Options are declared in classes alone; the files of `conf/` take them from there."""

from __future__ import annotations

import pytest

from compress.config.compose import compose_tree
from compress.config.options import options_of
from compress.config.schema import build_stages
from compress.core.errors import ConfigError
from compress.stages.recover.finetune import Finetune
from compress.support.resources import conf_folder
from compress.training.options import TrainOptions

STAGES = sorted(path.stem for path in (conf_folder() / "stage").glob("*.yaml"))
TARGET = "target=raspberry_pi_4"


def composed(*overrides, config_folder=None):
    return compose_tree([TARGET, *overrides], config_folder)


def test_every_option_of_every_stage_is_there_with_its_default():
    tree = composed(*(f"+stage@stage.my_{name}={name}" for name in STAGES))["stage"]
    mine = {name: tree[f"my_{name}"] for name in STAGES}
    for name, stage in build_stages(mine, lambda _: False).items():
        assert mine[name] == {"_target_": mine[name]["_target_"], **options_of(type(stage))}


@pytest.mark.parametrize("path", conf_folder().glob("*/*.yaml"), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_file_says_only_what_its_class_does_not(path):
    assert len(path.read_text().splitlines()) <= (15 if path.parent.name == "target" else 10)


def test_options_keep_their_types():
    options = options_of(Finetune)
    assert (options["epochs"], options["hints"], options["clip_norm"], options["source"]) == (10, [], None, None)
    assert options["weight_decay"] == TrainOptions.weight_decay == 1e-4


def test_two_stages_of_one_kind_have_options_of_their_own():
    tree = composed("+stage@stage.tune=finetune", "+stage@stage.again=finetune", "stage.tune.epochs=3")["stage"]
    assert (tree["tune"]["epochs"], tree["again"]["epochs"]) == (3, 10)


def test_a_wrong_option_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown key 'stage.magnitude.amout': did you mean 'amount'"):
        composed("stage.magnitude.amout=0.1")
    with pytest.raises(ConfigError, match=r"data.file is needed and not given"):
        composed("data=csv")


def test_a_folder_of_the_users_own_takes_them_too_and_only_those_there_are(tmp_path):
    (tmp_path / "stage").mkdir()
    mine, wrong = tmp_path / "stage/mine.yaml", tmp_path / "stage/wrong.yaml"
    target = "_target_: compress.stages.recover.finetune.Finetune\nepochs: 2\n"
    mine.write_text(f"defaults: [options/finetune@_here_, _self_]\n{target}")
    wrong.write_text(f"defaults: [options/../../model/options/file@_here_, _self_]\n{target}")
    stage = composed("+stage@stage.mine=mine", "stage.mine.patience=4", config_folder=tmp_path)["stage"]["mine"]
    assert (stage["epochs"], stage["patience"], stage["learning_rate"]) == (2, 4, 0.01)
    with pytest.raises(ConfigError):
        composed("+stage@stage.wrong=wrong", config_folder=tmp_path)
