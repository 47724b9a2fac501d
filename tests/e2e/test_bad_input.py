"""Every bad input gets one line, the right exit code, and leaves nothing behind."""

from __future__ import annotations

import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from compress.__main__ import main
from compress.support.resources import targets_folder

FACTORY = """
from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

def needs_64_pixels():
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 10))

def not_a_module():
    return 3
"""
GRAY = (
    "model.input.shape=[1,32,32]",
    "model.input.channel_order=gray",
    "model.input.mean=[0.5]",
    "model.input.std=[0.5]",
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "badnets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run(capsys, *overrides: str) -> tuple[int, str]:
    """Exit code and the error line of a run; the output folder must hold no run and no temporary."""
    code = main(["target=raspberry_pi_4", *overrides])
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    output = Path("outputs")
    assert not [path for path in output.rglob("*") if path.name.startswith(".tmp-")]
    assert not list(output.glob("*/[!.]*/manifest.json"))
    return code, error


def factory(name: str, checkpoint: str | None = None) -> list[str]:
    chosen = ["model=factory", f"model.factory=badnets:{name}", *GRAY, "data=digits"]
    return [*chosen, f"model.checkpoint={checkpoint}"] if checkpoint else chosen


def save_weights(path: str) -> bytes:
    import badnets

    torch.save(badnets.net().state_dict(), path)
    return Path(path).read_bytes()


def test_missing_checkpoint(capsys):
    code, error = run(capsys, *factory("net", "nowhere.pt"))
    assert code == 2
    assert "nowhere.pt" in error


def test_truncated_checkpoint(capsys):
    Path("half.pt").write_bytes(save_weights("whole.pt")[:300])
    code, error = run(capsys, *factory("net", "half.pt"))
    assert code == 2
    assert "half.pt" in error


class Attack:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


@pytest.mark.parametrize(
    "save", [lambda: torch.save(Attack(), "evil.pt"), lambda: Path("evil.pt").write_bytes(pickle.dumps(Attack()))]
)
def test_pickled_code_in_a_checkpoint_does_not_run(capsys, save):
    save()
    code, error = run(capsys, *factory("net", "evil.pt"))
    assert code == 2
    assert "evil.pt" in error
    assert not Path("owned").exists()


def test_keys_that_do_not_match_are_shown(capsys):
    torch.save({"conv.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}, "other.pt")
    code, error = run(capsys, *factory("net", "other.pt"))
    assert code == 2
    assert "0.weight" in error
    assert "conv.weight" in error


def test_a_forward_that_fails_on_the_declared_shape(capsys):
    code, error = run(capsys, *factory("needs_64_pixels"))
    assert code == 2
    assert "1, 32, 32" in error.replace("(", "").replace("[", "")


def test_a_factory_that_makes_no_module(capsys):
    code, error = run(capsys, *factory("not_a_module"))
    assert code == 2
    assert "not_a_module" in error


def test_a_factory_from_a_configuration_file_is_not_trusted(capsys):
    (Path("mine") / "model").mkdir(parents=True)
    model = {"kind": "factory", "factory": "badnets:net", "checkpoint": None}
    model["input"] = {"shape": [1, 32, 32], "channel_order": "gray", "mean": [0.5], "std": [0.5]}
    Path("mine/model/stranger.yaml").write_text("# A stranger's\n" + yaml.safe_dump(model))
    code, error = run(capsys, "model=stranger", "data=digits", "--config-dir", "mine")
    assert code == 2
    assert "trust=[badnets]" in error


def test_trust_cannot_be_set_by_a_configuration_file(capsys):
    (Path("mine") / "data").mkdir(parents=True)
    Path("mine/data/stranger.yaml").write_text(
        "# @package _global_\n# A stranger's\ndata: {kind: digits}\ntrust: [os]\n"
    )
    code, error = run(capsys, "data=stranger", "--config-dir", "mine")
    assert code == 2
    assert "only honoured on the command line" in error


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "compress.support.files.copy_new", "torch.nn.Linear"])
def test_a_stage_class_must_be_a_stage_of_a_trusted_package(capsys, target):
    (Path("mine") / "stage").mkdir(parents=True)
    Path("mine/stage/evil.yaml").write_text(f"# A stranger's\n_target_: {target}\n")
    code, error = run(capsys, "+stage@stage.x=evil", "--config-dir", "mine")
    assert code == 2
    assert target in error or "does not trust" in error


def test_zero_calibration_images(capsys):
    code, error = run(capsys, "data.calibration=0")
    assert code == 2
    assert "calibration" in error


def test_an_impossible_amount(capsys):
    code, error = run(capsys, "stage.magnitude.amount=1.5")
    assert code == 2
    assert "stage.magnitude.amount=1.5" in error


@pytest.mark.parametrize("content", [b"", b"not an onnx file", bytes(1000)])
def test_an_onnx_file_that_is_not_one(capsys, content):
    Path("model.onnx").write_bytes(content)
    code, error = run(capsys, "model=file", "model.path=model.onnx", *GRAY, "data=digits")
    assert code == 2
    assert "model.onnx" in error


def test_pruning_an_onnx_source_is_refused(capsys):
    typed = "stage.magnitude.amount=0.5"
    code, error = run(capsys, "model=file", "model.path=model.onnx", *GRAY, "data=digits", typed)
    assert code == 2
    assert "'magnitude' takes torch" in error


def test_somebodys_model_without_data_is_refused(capsys):
    code, error = run(capsys, "model=factory", "model.factory=badnets:net", *GRAY)
    assert code == 2
    assert "data= is needed for model=factory" in error


def test_a_target_profile_with_an_unknown_key(capsys):
    (Path("mine") / "targets").mkdir(parents=True)
    facts = yaml.safe_load((targets_folder() / "raspberry_pi_4.yaml").read_text())
    Path("mine/targets/raspberry_pi_4.yaml").write_text(yaml.safe_dump({**facts, "memory_byte": 3}))
    code, error = run(capsys, "--config-dir", "mine")
    assert code == 2
    assert "did you mean 'memory_bytes'" in error


def test_a_misspelt_option_names_the_nearest(capsys):
    code, error = run(capsys, "+stage.magnitude.amout=0.5")
    assert code == 2
    assert "did you mean 'amount'" in error


def test_a_full_disk(folder):
    """A file size limit stands in for a full disk: writing the store's first large file fails half way."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [sys.executable, "-m", "compress", "target=raspberry_pi_4", *factory("net"), "measure.latency_seconds=0.1"],
        cwd=folder,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: cannot write")
    assert "Traceback" not in done.stderr
    assert not list(folder.rglob(".tmp-*"))
    assert not list(folder.glob("outputs/*/[!.]*/manifest.json"))
