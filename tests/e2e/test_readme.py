"""Every command line and every option in README, and in `--help`, works as it is typed there.

A line is what a block shows: a command, or overrides to add to one. Each is composed and held against the targets until
one takes it. A line that none of the kinds below fits fails, too: teach this file to try it.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import tomllib
import yaml
from doubles import ROOT
from PIL import Image

from compress.__main__ import main
from compress.config.compose import compose_tree, expand_sweep
from compress.core.errors import CompressError, MissingExtra, Refusal
from compress.data import load_splits
from compress.pipeline import cli
from compress.pipeline.request import Plan, Request, plan_run
from compress.support.resources import conf_folder, describe_choices

sys.path.insert(0, str(Path(__file__).parent))
from command import run_folders

README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGETS = ["raspberry_pi_4", *(name for name in describe_choices(conf_folder() / "target") if name != "raspberry_pi_4")]
OVERRIDE = re.compile(r"-m|[+~]?[a-z_]+(@[a-z_.]+)?(\.\w+)*(=.*)?")
OPTION_IN_PROSE = re.compile(r"(?<![\w.+@])stage\.\w+\.[\w.]+=(?:\[[^\]]*\]|[^\s`);,]+)")
ELSEWHERE = ("pip ", "pytest", "tar ", "cd ", "python3 ", "venv/bin/python ", "docker:")
"""Commands of other programs, and of the board."""


@dataclass(frozen=True)
class Line:
    """A line of a block: its number in README, and what is typed."""

    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.number}: {self.text}"

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def blocks(text: str) -> list[list[Line]]:
    """Indented and fenced blocks, without empty lines."""
    found: list[list[Line]] = []
    fenced = inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fenced, inside = not fenced, False
        elif fenced or line.startswith("    "):
            if not inside:
                found.append([])
            inside = True
            if line.strip():
                found[-1].append(Line(number, line if fenced else line[4:]))
        elif line.strip():
            inside = False
    return [block for block in found if block]


def shows_a_result(block: list[Line]) -> bool:
    """Whether a block is a printed report, a session with its answer, or Python."""
    return block[0].text.startswith(("$ ", "class ", "import ")) or any("────" in line.text for line in block)


def commands(text: str) -> list[Line]:
    """The lines that are typed, those joined by `&&` one by one, and options that are named in prose and comments."""
    typed = [
        Line(line.number, part.strip())
        for block in blocks(text)
        if not shows_a_result(block)
        for line in block
        for part in line.text.partition("#")[0].split(" && ")
    ]
    typed += [
        Line(number, option)
        for number, line in enumerate(text.splitlines(), 1)
        for option in OPTION_IN_PROSE.findall(line if not line.startswith("    ") else line.partition("#")[2])
    ]
    return [line for line in typed if line.text]


def kind(line: Line) -> str:
    words = line.words
    if words[:3] == ["python", "-m", "compress"]:
        return "run"
    if words[:2] == ["python", "-m"] and words[2].startswith("compress."):
        return "tool"
    if all(OVERRIDE.fullmatch(word) for word in words) and any("=" in word or word[0] == "~" for word in words):
        return "options"
    return "elsewhere" if line.text.startswith(ELSEWHERE) else "unknown"


COMMANDS = commands(README)
RUNS = [line for line in COMMANDS if kind(line) in ("run", "options")]
PRECISIONS = {
    stage.partition("stage.")[2].partition(":")[0]: path.stem
    for path in sorted((conf_folder() / "precision").glob("*.yaml"))
    for default in yaml.safe_load(path.read_text()).get("defaults", [])
    for stage in (default if isinstance(default, dict) else {})
}
"""The precision that brings each quantizer."""
DATA = next(line.words for line in COMMANDS if line.text.startswith("data=image_folder"))


def adders() -> dict[str, list[str]]:
    """The first README line that adds each stage, by the stage's name."""
    found: dict[str, list[str]] = {}
    for line in RUNS:
        for word in line.words:
            if match := re.match(r"\+stage@stage\.(\w+)=", word):
                found.setdefault(match[1], overrides(line))
    return found


def overrides(line: Line) -> list[str]:
    """What the line gives to `python -m compress`; `...`, and an option alone, mean the first data set shown."""
    words = line.words[3:] if kind(line) == "run" else line.words
    words = [part for word in words for part in (DATA if word in ("...", "data=...") else [word])]
    return [*DATA, *words] if words[0].startswith("data.") else words


def alternatives(words: list[str]) -> list[tuple[str, ...]]:
    """`a=x|y` is either, and every one of them is there once; `-m` is every combination."""
    command = cli.parse(words)
    if command.multirun:
        return expand_sweep(command.overrides)
    parts = [word.partition("=") for word in command.overrides]
    either = [[f"{key}{equals}{one}" for one in value.split("|")] for key, equals, value in parts]
    return [tuple(one[min(row, len(one) - 1)] for one in either) for row in range(max(map(len, either)))]


@cache
def recipe(*chosen: str) -> frozenset[str]:
    """The stages that target and precision bring."""
    return frozenset(cast(dict[str, object], compose_tree(chosen)["stage"]))


def with_what_it_needs(words: tuple[str, ...], target: str) -> tuple[str, ...]:
    """The overrides, after those that add the stages they set options of."""
    chosen = words if any(word.startswith("target=") for word in words) else (f"target={target}", *words)
    added = {match[1] for word in words if (match := re.match(r"\+stage@stage\.(\w+)=", word))}
    there = added | recipe(*(word for word in chosen if word.startswith(("target=", "precision="))))
    named = [match[1] for word in words if (match := re.match(r"stage\.(\w+)\.", word))]
    for name in dict.fromkeys(name for name in named if name not in there):
        if name in ADDERS:
            chosen = (chosen[0], *(word for word in ADDERS[name] if word not in chosen), *chosen[1:])
        elif name in PRECISIONS and not any(word.startswith("precision=") for word in words):
            chosen = (chosen[0], f"precision={PRECISIONS[name]}", *chosen[1:])
    return chosen


ADDERS = adders()


def planned(words: tuple[str, ...]) -> Plan:
    """The plan for the first target that takes the overrides; skips where a package for it is not installed."""
    named = any(word.startswith("target=") for word in words)
    refused = []
    for target in TARGETS[:1] if named else TARGETS:
        plan = attempt(with_what_it_needs(words, target))
        if isinstance(plan, Plan):
            return plan
        refused.append(f"{target}: {plan}")
    pytest.fail("\n".join([f"no target takes {' '.join(words)}", *refused]))


def attempt(words: tuple[str, ...]) -> Plan | CompressError:
    try:
        return plan_run(Request(words))
    except MissingExtra as missing:
        pytest.skip(str(missing))
    except CompressError as error:
        return error


def test_every_line_is_of_a_kind_that_is_tried():
    assert [str(line) for line in COMMANDS if kind(line) == "unknown"] == []
    assert len(RUNS) > 50


HELP = [Line(0, override) for override, _ in cli.COMMON_OVERRIDES]


@pytest.mark.parametrize("line", [*RUNS, *HELP], ids=str)
def test_a_line_is_planned_for_a_target_that_fits(line):
    for words in alternatives(overrides(line)):
        assert planned(words).pipeline.steps


def test_a_line_that_does_not_work_is_noticed():
    wrong = commands(
        "## Chapter\n\n    stage.magnitude.amout=0.7   # an option\n    make everything\n\nUse `stage.a.b=1`.\n"
    )
    assert [kind(line) for line in wrong] == ["options", "unknown", "options"]
    for line in (wrong[0], wrong[2], Line(1, "+stage@stage.two_four=semi_structured")):
        with pytest.raises(pytest.fail.Exception, match="no target takes"):
            planned(("target=jetson_orin_nano", *overrides(line)))


def test_an_answer_that_is_shown_is_the_one_that_is_given():
    sessions = [block for block in blocks(README) if block[0].text.startswith("$ ")]
    assert sessions
    for first, *answer in sessions:
        words = shlex.split(first.text)
        assert words[1:4] == ["python", "-m", "compress"]
        with pytest.raises(Refusal) as caught:
            plan_run(Request(tuple(words[4:])))
        assert f"error: {caught.value}" == " ".join(line.text.strip() for line in answer)


@pytest.mark.parametrize("line", [line for line in COMMANDS if kind(line) == "tool"], ids=str)
def test_a_tools_line_is_one_it_reads(line):
    import importlib

    tool = importlib.import_module(f"{line.words[2]}.__main__")
    tool._parser().parse_args([word for word in line.words[3:] if word != "..."])


@pytest.mark.parametrize("line", [line for line in COMMANDS if kind(line) == "elsewhere"], ids=str)
def test_what_other_programs_are_given_is_there(line):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    words = line.words
    if words[:2] == ["pip", "install"]:
        assert {name for word in words for name in re.findall(r"\[(\w+)\]", word)} <= set(extras)
    if words[0] in ("python3", "venv/bin/python") and words[1] != "-m":
        assert (ROOT / "compress" / "device" / "agent" / words[1]).is_file()


@pytest.fixture
def users_folder(tmp_path, monkeypatch):
    """The files README talks about."""
    images = np.random.default_rng(0).integers(0, 256, (8, 300, 300), dtype=np.uint8)
    labels = np.arange(8) % 2
    for part in ("train", "test"):
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "photos" / part / "ab"[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image ^ (part == "test")).save(folder / f"{index}.png")
    for table, part in (("labels.csv", "train"), ("test.csv", "test")):
        rows = [f"photos/{part}/{'ab'[label]}/{index}.png,{label}" for index, label in enumerate(labels)]
        (tmp_path / table).write_text("\n".join(["file,label", *rows]))
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    (tmp_path / "classes.csv").write_text("a,7\nb,3\n")
    (tmp_path / "names.txt").write_text("b\na\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", [line for line in RUNS if line.text.startswith("data")], ids=str)
def test_data_is_read_as_the_line_says(line, users_folder):
    config = planned((*overrides(line), "data.calibration=2", "data.validation=1")).config
    if config.data.kind == "torchvision":
        pytest.skip("needs the data set's own files")
    splits = load_splits(config.data, config.model.input.spec())
    assert len(splits.evaluation) > 0


OTHERS = re.compile(
    r"layer\d|layer_times|device\.|data=|data\.|model=|weights=DEFAULT|^-m|logger=|latency_ms|of=latency"
)
"""Of another network than the embedded one, of a board, or tried elsewhere."""
QUICK = ("data.calibration=32", "data.validation=64", "data.finetune=200", "data.evaluation=64", "golden_samples=2")


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in RUNS if not OTHERS.search(line.text)], ids=str)
def test_a_line_runs_on_the_embedded_model(line, tmp_path):
    (words, *_) = alternatives(overrides(line))
    plan = planned(words)
    target = plan.pipeline.target.name
    chosen = with_what_it_needs(words, target)
    epochs = [f"stage.{step.name}.epochs=1" for step in plan.pipeline.steps if hasattr(step.stage, "epochs")]
    if "auto" in {step.name for step in plan.pipeline.steps}:
        epochs.append("stage.auto.on_miss=keep")
    code = main([*chosen, *epochs, *QUICK, f"output={tmp_path}", "measure.latency_seconds=0.1"])
    assert code == 0
    assert (run_folders(tmp_path)[-1] / "report.html").is_file()
