"""The command line itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress import __version__
from compress.__main__ import main
from compress.core.errors import ConfigError
from compress.pipeline.cli import help_text, parse
from compress.support.resources import conf_folder, describe_choices


def test_flags_and_overrides_may_be_mixed():
    command = parse(["target=a,b", "-m", "~stage.magnitude", "--config-dir", "mine", "seed=1"])
    assert command.overrides == ("target=a,b", "~stage.magnitude", "seed=1")
    assert command.multirun
    assert command.config_folder == Path("mine")


def test_verbose_and_quiet_exclude_each_other():
    assert parse(["-v"]).verbose
    assert parse(["--quiet"]).quiet
    with pytest.raises(ConfigError, match="not allowed with"):
        parse(["-v", "-q"])


@pytest.mark.parametrize("arguments", [["--multi"], ["--config-dir"]])
def test_unknown_flags_show_the_usage(arguments):
    with pytest.raises(ConfigError, match="fix: usage: python -m compress target=<device>"):
        parse(arguments)


def test_help_lists_every_choice_and_ten_overrides():
    text = help_text()
    for group in ("target", "model", "data", "measure", "logger", "stage"):
        for name, description in describe_choices(conf_folder() / group).items():
            assert f"  {name} " in text
            assert description in text
    overrides = text.split("common overrides\n")[1].split("\n\n")[0]
    assert len(overrides.splitlines()) == 10


def test_help_includes_the_users_own_folder(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "my_board.yaml").write_text("# @package _global_\n# The board on my desk\n")
    assert "my_board" in help_text(tmp_path)
    assert "The board on my desk" in help_text(tmp_path)


def test_help_and_version_exit_with_0(capsys):
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip().endswith(__version__)


def test_errors_are_one_line_on_stderr_with_exit_code_2(capsys):
    assert main(["target=jetson_nanno"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: unknown target 'jetson_nanno': did you mean 'jetson_nano'?")
    assert captured.err.count("\n") == 1


def test_the_traceback_is_there_on_request(capsys, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert main(["target=jetson_nanno"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_cfg_prints_the_composed_configuration(capsys):
    assert main(["target=jetson_nano", "--cfg", "seed=7"]) == 0
    assert "seed: 7" in capsys.readouterr().out
