"""The auto stage: it stops where the budget is met, and says honestly when it is not."""

from __future__ import annotations

import json
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from doubles import ArraySplit, Log, stage_context
from pydantic import TypeAdapter, ValidationError
from torch import fx, nn

from compress.config.schema import load_target
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import Refusal, StageError
from compress.core.target import Int8Scheme, Target
from compress.data import load_splits
from compress.data.configs import DigitsData
from compress.models import load_model
from compress.models.configs import DigitsModel
from compress.models.persist import load_module
from compress.pipeline.store import StageStore
from compress.quantization.rung_names import RUNGS
from compress.stages.quantize.auto import Auto, BudgetMissed

SPEC = InputSpec((1, 4, 4), "gray", (0.5,), (0.5,))


def judged(name, module, count, seed):
    """Noise, labelled by the module itself."""
    images = np.random.default_rng(seed).standard_normal((count, *SPEC.shape), dtype=np.float32)
    images[:, :, 0, 0] = 0
    with torch.no_grad():
        return ArraySplit(images, module(torch.from_numpy(images)).argmax(1).numpy(), name)


def splits_for(module, *, calibration=8, validation=64, finetune=32):
    counts = {"calibration": calibration, "validation": validation, "finetune": finetune}
    named = {name: judged(name, module, count, seed) for seed, (name, count) in enumerate(counts.items())}
    return SimpleNamespace(**named)  # no evaluation split: asking for it would be an error


def target(placement="onnxruntime"):
    source = "made up for a test"
    number = {"value": 1, "source": source}
    word = {"value": "3", "source": source}
    return Target(
        name="board", title="Board", architecture="aarch64", formats={}, peak_flops={}, compute=word, runtime=word,
        python=word, isa_flags={"value": (), "source": source}, memory_bytes=number, bandwidth_bytes_per_s=number,
        precisions={"int8": {"value": True, "source": source}},
        int8=Int8Scheme(placement=placement, source=source),
    )  # fmt: skip


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)).eval()


def hopeless():
    """One layer whose largest weight meets an input that is always zero: with one scale, all others round to zero."""
    torch.manual_seed(0)
    linear = nn.Linear(16, 4)
    with torch.no_grad():
        linear.weight[0, 0] = 1000.0
    return nn.Sequential(OrderedDict(flat=nn.Flatten(), linear=linear)).eval()


def run(stage, module, folder, *, splits=None, board=None):
    log = Log()
    context = stage_context(
        "auto", target=board or target(), splits=splits or splits_for(module), folder=folder, log=log
    )
    return stage.run(Artifact(Format.TORCH, module, Precision.FP32, SPEC), context), log


def stage(**options):
    return Auto(**{"epochs": 1, "device": "cpu", **options})


def test_the_embedded_model_needs_only_the_first_rung(tmp_path):
    config = DigitsModel(kind="digits")
    spec, log = config.input.spec(), Log()
    splits = load_splits(DigitsData(), spec)
    source = load_model(config, trusted=lambda name: False, seed=0, progress=log, finetune=splits.finetune)
    before = {name: value.clone() for name, value in source.module.state_dict().items()}
    context = stage_context("auto", target=target(), splits=splits, folder=tmp_path, log=log)
    result = Auto(budget={"top1_drop": 2}).run(source, context)
    assert isinstance(result.module, fx.GraphModule)
    assert (result.precision, result.history) == (Precision.INT8, ("auto",))
    (record,) = json.loads((tmp_path / "rungs.json").read_text())
    assert (record["name"], record["samples"], record["within_budget"]) == ("min_max", 128, True)
    assert record["change_points"] >= -2
    assert record["sqnr_db"] > 30
    assert list(result.notes) == ["rung 1"]
    assert any(line.startswith("auto: rung 1 min_max: top-1 ") for line in log.lines)
    assert all(torch.equal(value, before[name]) for name, value in source.module.state_dict().items())


def test_an_impossible_budget_climbs_every_rung_and_fails_with_the_best_result_kept(tmp_path):
    with pytest.raises(BudgetMissed) as caught:
        run(stage(budget={"top1_drop": 0}, per_channel=False), hopeless(), tmp_path)
    error = caught.value
    assert error.exit_code == 1
    assert "no rung is within budget.top1_drop=0: the best, " in str(error)
    assert "stage.auto.on_miss=keep" in str(error)
    records = json.loads((tmp_path / "missed_budget" / "rungs.json").read_text())
    assert [record["name"] for record in records] == list(RUNGS)
    assert not any(record["within_budget"] for record in records)
    assert max(record["change_points"] for record in records) < 0
    kept = load_module(tmp_path / "missed_budget" / "module.pt2", source=None)
    assert kept(torch.zeros(2, *SPEC.shape)).shape == (2, 4)


def test_a_missed_budget_can_be_kept_and_is_labelled(tmp_path):
    options = {"budget": {"top1_drop": 0}, "per_channel": False, "rungs": ["min_max", "range_search"]}
    result, log = run(stage(on_miss="keep", **options), hopeless(), tmp_path)
    assert list(result.notes) == ["rung 1", "rung 2", "budget"]
    assert result.notes["budget"].startswith("MISSED: no rung is within budget.top1_drop=0")
    assert log.lines[-1].startswith("auto: kept although no rung is within budget.top1_drop=0: the best, ")
    store = StageStore(tmp_path / "store")
    store.folder("k").mkdir(parents=True)
    store.save("k", result, 1.0, 1, source=None)
    assert store.load("k", source=None).notes == result.notes


def test_mixed_precision_leaves_the_layer_that_hurts_in_float(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.bad, self.good = nn.Flatten(), hopeless().linear, nn.Linear(4, 4)
            with torch.no_grad():
                self.good.weight.copy_(10 * torch.eye(4))  # the answer is that of the layer before

        def forward(self, x):
            return self.good(torch.sigmoid(self.bad(self.flat(x))))

    options = {"budget": {"top1_drop": 5}, "per_channel": False, "rungs": ["min_max", "mixed_precision"]}
    result, _ = run(stage(**options), Two().eval(), tmp_path)
    assert "mixed_precision: top-1" in result.notes["rung 2"]
    assert "left 1 of 2 layers in float (bad): 192 bytes more" in result.notes["rung 2"]


def test_rungs_that_cannot_be_tried_say_why(tmp_path):
    module = hopeless()
    options = {"budget": {"top1_drop": 0}, "per_channel": False, "rungs": ["mixed_precision", "qat"]}
    with pytest.raises(BudgetMissed, match="no rung could be tried: mixed_precision: placement 'edgetpu' leaves"):
        run(stage(**options), module, tmp_path, splits=splits_for(module, finetune=0), board=target("edgetpu"))


def test_a_coarse_validation_split_is_said(tmp_path):
    module = network()
    _, log = run(stage(budget={"top1_drop": 1}, on_miss="keep"), module, tmp_path, splits=splits_for(module))
    assert "one of 64 validation images is 1.6 points" in log.lines[0]
    assert "data.validation=100 tells finer" in log.lines[0]


@pytest.mark.parametrize("images", [1, 3])
def test_fewer_calibration_images_than_a_batch_are_enough(tmp_path, images):
    module = network()
    result, _ = run(stage(budget={"top1_drop": 100}), module, tmp_path, splits=splits_for(module, calibration=images))
    assert result.precision is Precision.INT8


def test_constant_activations_are_quantized_exactly(tmp_path):
    module = network()
    with torch.no_grad():
        module[0].weight.zero_()
        module[0].bias.fill_(-1)  # ReLU makes it a constant zero
    result, _ = run(stage(budget={"top1_drop": 0}, rungs=["min_max", "equalize_bias"]), module, tmp_path)
    x = torch.randn(3, *SPEC.shape)
    assert torch.allclose(result.module(x), module(x), atol=1e-4)


def test_missing_data_names_the_option(tmp_path):
    module = network()
    with pytest.raises(StageError, match=r"validation split is empty.*data.validation="):
        run(stage(), module, tmp_path, splits=splits_for(module, validation=0))
    with pytest.raises(StageError, match=r"calibration split is empty.*data.calibration"):
        run(stage(), module, tmp_path, splits=splits_for(module, calibration=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": {"top1_drop": -0.1}}, "greater than or equal to 0"),
        ({"budget": {"top1_drop": float("nan")}}, "finite number"),
        ({"budget": {"top5": 1}}, "Extra inputs"),
        ({"rungs": []}, "at least 1 item"),
        ({"rungs": ["minmax"]}, "'min_max', 'range_search'"),
        ({"rungs": ["qat", "min_max"]}, r"each rung once, cheapest first: \[min_max, qat\]"),
        ({"rungs": ["qat", "qat"]}, r"each rung once"),
        ({"on_miss": "ignore"}, "'fail' or 'keep'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValidationError, match=message):
        Auto(**options)


def test_a_budget_of_zero_is_legal():
    assert TypeAdapter(Auto).validate_python({"budget": {"top1_drop": 0}}).budget.top1_drop == 0


def test_milliseconds_need_known_peaks():
    known = load_target("raspberry_pi_4", [])
    stage(mixed_cost="milliseconds").requires(known, Precision.FP32, "auto")
    unknown = known.model_copy(update={"peak_flops": {Precision.FP32: known.peak_flops[Precision.FP32]}})
    with pytest.raises(Refusal, match=r"int8 peaks .* are not both known.*mixed_cost=bytes"):
        stage(mixed_cost="milliseconds").requires(unknown, Precision.FP32, "auto")
