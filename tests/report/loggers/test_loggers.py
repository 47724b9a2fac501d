"""Loggers: told the same figures as the report, offline, refused before any work where their package is missing."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec

import pytest
from doubles import GRAY, Log

from compress.__main__ import main
from compress.core.errors import MissingExtra
from compress.report.loggers import MlflowLogging, NoLogging, RunFacts, TensorboardLogging, flattened, logged, mlflow
from compress.report.loggers import tensorboard as tensorboard_logger
from compress.support.observe import listening, observe

JOB = ("target=raspberry_pi_4", "precision=fp32", "~stage.to_onnx_fp32", "~stage.magnitude", "-q")
TUNE = ("+stage@stage.tune=finetune", "stage.tune.before=fold_batchnorm", "stage.tune.epochs=2")
REQUIRED = {"tensorboard": tensorboard_logger, "mlflow": mlflow}

needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="edge-compress[tensorboard] is absent")
needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="edge-compress[mlflow] is absent")


def run(tmp_path, *more):
    short = ("measure.latency_seconds=0.1", "data.finetune=128", "data.evaluation=64", f"output={tmp_path}")
    return main([*JOB, *TUNE, *short, *more])


def events(folder):
    """Scalars by tag as `{step: value}`, and the tags of other kinds, from the only event file below `folder`."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = folder.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(path))
    found.Reload()
    scalars = {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in found.Tags()["scalars"]}
    return scalars, set(found.summary_metadata) - set(scalars), found


def test_figures_reach_only_who_listens_and_only_if_they_are_numbers():
    heard = []
    observe("loss", 0, 1.0)
    with listening(lambda *figure: heard.append(figure)):
        for position, value in enumerate([0.5, None, math.inf, math.nan, 3]):
            observe("loss", position, value)
    observe("loss", 9, 1.0)
    assert heard == [("loss", 0, 0.5), ("loss", 4, 3.0)]


def test_epochs_are_told_by_the_training_loop():
    import torch
    from torch import nn

    from compress.data import DigitsData, load_splits
    from compress.training.loop import train
    from compress.training.options import TrainOptions
    from compress.training.samples import Samples
    from compress.training.shuffle import Shuffled

    splits = load_splits(DigitsData(finetune=64, validation=32), GRAY)
    shuffled = Shuffled(Samples(splits.finetune), size=32, seed=0)
    torch.manual_seed(0)
    module, heard = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), []
    with listening(lambda *figure: heard.append(figure)):
        result = train(
            module,
            batches_of=shuffled,
            steps_per_epoch=len(shuffled),
            options=TrainOptions(2, 0.1),
            seed=0,
            progress=Log(),
            validation=lambda: splits.validation.batches(32),
            description="tune",
        )
    assert [figure[:2] for figure in heard] == [
        (f"tune/{name}", epoch) for epoch in (0, 1) for name in ("loss", "validation_loss", "validation_top1")
    ]
    assert [value for name, _, value in heard if name == "tune/loss"] == [epoch.loss for epoch in result.epochs]


def test_a_configuration_becomes_flat_text():
    assert flattened({"a": {"b": 1, "c": {"d": None}}, "e": [1, "x"]}) == {"a.b": "1", "a.c.d": "None", "e": "[1, 'x']"}


def test_no_logger_is_no_logger(tmp_path):
    with logged(NoLogging(), RunFacts("x/1", tmp_path, {})) as logger:
        assert logger is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_missing_package_is_told_before_any_work(kind, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(REQUIRED[kind], "find_spec", lambda name: None)
    assert run(tmp_path, f"logger={kind}") == 2
    fix = f"pip install 'edge-compress[{kind}]'"
    assert capsys.readouterr().err == f"error: logger={kind} needs the package {kind!r} | fix: {fix}\n"
    assert not list(tmp_path.iterdir())
    with pytest.raises(MissingExtra):
        REQUIRED[kind].create(None, RunFacts("x/1", tmp_path, {}))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("logger=tensorbord", "unknown logger 'tensorbord': did you mean 'tensorboard'?"),
        ("+logger.server=http://x", "unknown key 'logger."),
    ],
)
def test_a_wrong_choice_is_one_line(override, message, capsys, tmp_path):
    assert run(tmp_path, override) == 2
    assert message in capsys.readouterr().err


@needs_tensorboard
def test_tensorboard_has_the_figures_of_the_report(tmp_path):
    assert run(tmp_path, "logger=tensorboard") == 0
    (folder,) = (tmp_path / "raspberry_pi_4").iterdir()
    rows = json.loads((folder / "report.json").read_text())["measurements"]
    scalars, others, found = events(tmp_path / "tensorboard" / "raspberry_pi_4" / folder.name)
    sizes = {place: row["size_bytes"] for place, row in enumerate(rows)}
    assert scalars["stages/size_bytes"] == sizes
    assert scalars["stages/top1"] == pytest.approx({n: row["accuracy"]["top1"] for n, row in enumerate(rows)})
    assert scalars["stages/latency_ms"] == pytest.approx({n: row["latency"]["median_ms"] for n, row in enumerate(rows)})
    assert set(scalars["tune/loss"]) == set(scalars["tune/validation_top1"]) == {0, 1}
    assert {"stages/text_summary", "artifacts/text_summary", "_hparams_/session_start_info"} <= others
    stages = found.Tensors("stages/text_summary")[0].tensor_proto.string_val[0].decode()
    assert stages.splitlines() == [f"* {place}: {row['stage']}" for place, row in enumerate(rows)]
    start = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"stage.tune.epochs" in start


def _observe_and_fail():
    observe("loss", 0, 1.0)
    raise ZeroDivisionError


@needs_tensorboard
def test_a_failed_run_says_so_and_the_next_one_gets_a_folder_of_its_own(tmp_path):
    facts = RunFacts("board/now", tmp_path, {"seed": "0"})
    config = TensorboardLogging(kind="tensorboard", folder=tmp_path / "logs")
    with pytest.raises(ZeroDivisionError), logged(config, facts):
        _observe_and_fail()
    with logged(config, facts):
        observe("loss", 0, 2.0)
    assert [events(tmp_path / "logs" / "board" / name)[0]["loss"][0] for name in ("now", "now-2")] == [1.0, 2.0]
    _, _, found = events(tmp_path / "logs" / "board" / "now")
    assert b"failed" in found.summary_metadata["_hparams_/session_start_info"].plugin_data.content


@needs_mlflow
def test_mlflow_has_the_figures_parameters_and_reports(tmp_path):
    assert run(tmp_path, "logger=mlflow", "logger.experiment=digits") == 0
    from mlflow import MlflowClient

    (folder,) = (tmp_path / "raspberry_pi_4").iterdir()
    rows = json.loads((folder / "report.json").read_text())["measurements"]
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("digits").experiment_id
    (found,) = client.search_runs([experiment])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == f"raspberry_pi_4/{folder.name}"
    assert found.data.params["stage.tune.epochs"] == "2"
    assert found.data.tags["folder"] == str(folder)
    assert found.data.tags["stage.1"] == rows[1]["stage"]
    history = client.get_metric_history(found.info.run_id, "stages/top1")
    expected = {place: row["accuracy"]["top1"] for place, row in enumerate(rows)}
    assert {metric.step: metric.value for metric in history} == pytest.approx(expected)
    assert len(client.get_metric_history(found.info.run_id, "tune/loss")) == 2
    attached = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert {"report.json", "manifest.json"} <= attached
    assert not any(name.endswith(".onnx") for name in attached)


@needs_mlflow
def test_a_failed_run_is_failed_in_mlflow(tmp_path):
    from mlflow import MlflowClient

    config = MlflowLogging(kind="mlflow", folder=tmp_path)
    with pytest.raises(RuntimeError), logged(config, RunFacts("board/now", tmp_path, {"seed": "0"})):
        raise RuntimeError
    client = MlflowClient(tracking_uri=tmp_path.as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("edge-compress").experiment_id])
    assert (found.info.status, found.data.params) == ("FAILED", {"seed": "0"})
