"""A training stage's options are the hyper-parameters of the same name."""

from __future__ import annotations

from compress.stages.quantize.qat import Qat
from compress.stages.recover.finetune import Finetune
from compress.training.options import TrainOptions


def test_every_option_that_is_a_hyper_parameter_reaches_the_training():
    typed = {
        "epochs": 3, "learning_rate": 0.5, "optimizer": "adamw", "momentum": 0.1, "weight_decay": 0.2,
        "warmup_epochs": 0.25, "label_smoothing": 0.3, "ema": 0.4, "clip_norm": 2.0, "patience": 7, "temperature": 5.0,
        "alpha": 0.6, "hints": ("layer1",), "hint_weight": 0.7, "device": "cpu", "mixed_precision": False,
    }  # fmt: skip
    assert Finetune(distill=True, **typed).train_options() == TrainOptions(**typed)


def test_what_a_stage_does_not_offer_is_as_declared():
    options = Qat().train_options()
    assert (options.epochs, options.learning_rate, options.clip_norm) == (5, 1e-4, 1.0)
    assert (options.momentum, options.hints) == (TrainOptions.momentum, TrainOptions.hints)
