"""Checkpoints as people have them, and as they should not be."""

from __future__ import annotations

import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from compress.core.errors import ModelError
from compress.models.checkpoint import load_checkpoint, read_state_dict


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.fixture
def trained():
    torch.manual_seed(1)
    return {name: torch.rand_like(t) if t.is_floating_point() else t for name, t in network().state_dict().items()}


def assert_loads(content, trained, path, **options):
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    model = network()
    load_checkpoint(model, path, key=options.get("key"), strict=options.get("strict", True))
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, trained[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.th", "a.safetensors"])
def test_file_types(trained, tmp_path, name):
    assert_loads(trained, trained, tmp_path / name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    wrappers=st.lists(st.sampled_from(["state_dict", "model_state_dict", "model", "net", "ema"]), max_size=3),
    prefixes=st.lists(st.sampled_from(["module.", "_orig_mod."]), max_size=3),
)
def test_wrappers_and_prefixes_come_off(trained, tmp_path, wrappers, prefixes):
    content = {"".join(prefixes) + name: tensor for name, tensor in trained.items()}
    for wrapper in wrappers:
        content = {"epoch": 3, wrapper: content, "optimizer": {"lr": 0.1}}
    assert_loads(content, trained, tmp_path / "a.pt")


def test_explicit_key(trained, tmp_path):
    assert_loads({"deep": {"a.b": trained}, "model": {}}, trained, tmp_path / "a.pt", key="deep.a.b")
    with pytest.raises(ModelError, match=r"has no key 'deeper'; did you mean 'deep'"):
        read_state_dict(tmp_path / "a.pt", "deeper")


def test_missing_counter_of_old_checkpoints_is_fine(trained, tmp_path):
    torch.save({name: tensor for name, tensor in trained.items() if "num_batches" not in name}, tmp_path / "a.pt")
    load_checkpoint(network(), tmp_path / "a.pt", key=None, strict=True)


def test_mismatches_show_the_first_few(trained, tmp_path):
    content = {name: tensor for name, tensor in trained.items() if not name.startswith("1.")}
    content["3.weight"] = torch.zeros(2, 5)
    content |= {"extra": torch.zeros(1)}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ModelError) as caught:
        load_checkpoint(network(), tmp_path / "a.pt", key=None, strict=True)
    text = str(caught.value)
    assert "1 wrong shape: 3.weight is (2, 5) but the model has (2, 4)" in text
    assert "4 missing: 1.weight, 1.bias, 1.running_mean, ..." in text
    assert "1 unexpected: extra" in text
    assert "\n" not in text


def test_not_strict_still_refuses_shapes_and_strangers(trained, tmp_path):
    torch.save(trained | {"extra": torch.zeros(1)}, tmp_path / "a.pt")
    load_checkpoint(network(), tmp_path / "a.pt", key=None, strict=False)
    torch.save({"0.weight": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="wrong shape"):
        load_checkpoint(network(), tmp_path / "a.pt", key=None, strict=False)
    torch.save({"other": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="shares no key"):
        load_checkpoint(network(), tmp_path / "a.pt", key=None, strict=False)


class Command:
    """What an attacker puts into a checkpoint."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_pickled_code_is_refused_and_never_run(tmp_path):
    torch.save({"a": Command(tmp_path / "executed")}, tmp_path / "a.pt")
    with pytest.raises(
        ModelError, match=r"contains pickled code \(posix.mkdir\), which is never run \| fix: .*state_dict"
    ):
        read_state_dict(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Command(tmp_path / "executed"), protocol=2))
    with pytest.raises(ModelError, match="contains pickled code"):
        read_state_dict(tmp_path / "b.pt")
    assert not (tmp_path / "executed").exists()


def test_whole_modules_and_namespaces_are_code_too(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"pickled code \(torch.nn.modules.linear.Linear\)"):
        read_state_dict(tmp_path / "a.pt")
    torch.save({"args": argparse.Namespace()}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"pickled code \(argparse.Namespace\)"):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.99])
def test_truncated(trained, tmp_path, name, share):
    path = tmp_path / name
    save_file(trained, path) if path.suffix == ".safetensors" else torch.save(trained, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ModelError, match="is truncated or not a") as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_missing_garbage_and_empty_of_weights(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        read_state_dict(tmp_path / "absent.pt")
    (tmp_path / "a.pt").write_bytes(b"hello world")
    with pytest.raises(ModelError, match="is truncated or not a checkpoint"):
        read_state_dict(tmp_path / "a.pt")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="holds no state dict; its keys: epoch, lr"):
        read_state_dict(tmp_path / "a.pt")


def test_torchscript_as_checkpoint(tmp_path):
    torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "a.pt"))
    with pytest.raises(ModelError, match=r"is TorchScript, not a state dict \| fix: model=file"):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("0.weight", lambda t: t.to(torch.int64), "0.weight is int64 but the model has float32"),
        ("0.weight", lambda t: t.to(torch.complex64), "0.weight is complex64 but the model has float32"),
        ("0.weight", lambda t: t > 0, "0.weight is bool but the model has float32"),
        ("0.weight", lambda t: t.to(torch.float8_e4m3fn), "0.weight is float8_e4m3fn but the model has float32"),
        ("0.weight", lambda t: t.to_sparse(), "0.weight is float32 sparse_coo but the model has float32"),
        ("0.weight", lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "0.weight is qint8 but"),
        ("0.weight", lambda t: t.to("meta"), "0.weight is float32 without values but the model has float32"),
        ("1.num_batches_tracked", lambda t: t + 0.5, "1.num_batches_tracked is float32 but the model has int64"),
    ],
)
def test_types_that_do_not_convert_are_refused(trained, tmp_path, name, change, message, strict):
    torch.save(trained | {name: change(trained[name])}, tmp_path / "a.pt")
    model = network()
    before = model[0].weight.clone()
    with pytest.raises(ModelError, match=f"1 wrong type: {message}"):
        load_checkpoint(model, tmp_path / "a.pt", key=None, strict=strict)
    torch.testing.assert_close(model[0].weight, before, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_of_real_numbers_convert(trained, tmp_path, dtype):
    counters = {name: tensor.to(torch.int32) for name, tensor in trained.items() if not tensor.is_floating_point()}
    torch.save({name: tensor.to(dtype) for name, tensor in trained.items()} | counters, tmp_path / "a.pt")
    model = network()
    load_checkpoint(model, tmp_path / "a.pt", key=None, strict=True)
    torch.testing.assert_close(model[0].weight.detach(), trained["0.weight"].to(dtype).float(), rtol=0, atol=0)
    assert model[1].num_batches_tracked.dtype is torch.int64


# what trainers wrap around a state dict


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"model.{name}",
        lambda name: f"net.{name}",
        lambda name: f"model.net.{name}",
        lambda name: f"module.model.{name}",
        lambda name: f"model._orig_mod.{name}",
        lambda name: f"model._orig_mod.module.{name}",
        lambda name: name.replace("0.", "0.module.", 1),
        lambda name: name.replace("1.", "1._orig_mod.", 1) if name.startswith("1.") else f"module.{name}",
    ],
)
def test_wrappers_come_off_wherever_they_are(trained, tmp_path, wrap):
    extra = {"n_averaged": torch.tensor(3), "model.total_ops": torch.zeros(1), "total_params": torch.zeros(1)}
    content = {wrap(name): tensor for name, tensor in trained.items()} | extra
    assert_loads({"state_dict": content, "epoch": 3}, trained, tmp_path / "a.ckpt")


def test_tensors_of_a_loss_beside_the_network(trained, tmp_path):
    content = {f"model.{name}": tensor for name, tensor in trained.items()} | {"loss.weight": torch.ones(2)}
    torch.save({"state_dict": content}, tmp_path / "a.ckpt")
    with pytest.raises(ModelError, match=r"1 unexpected: loss.weight | fix: model.strict=false to leave those out"):
        load_checkpoint(network(), tmp_path / "a.ckpt", key=None, strict=True)
    assert_loads({"state_dict": content}, trained, tmp_path / "a.ckpt", strict=False)


def test_a_part_called_as_a_wrapper_keeps_its_name(tmp_path):
    model = nn.ModuleDict({"module": nn.Linear(2, 2), "model": nn.Linear(2, 2)})
    state = {name: torch.rand_like(tensor) for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "a.pt")
    load_checkpoint(model, tmp_path / "a.pt", key=None, strict=True)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)


@pytest.mark.parametrize("average", ["state_dict_ema", "ema", "model_ema"])
def test_an_average_is_preferred_and_said(trained, tmp_path, average):
    last = {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
    torch.save({"state_dict": last, average: trained}, tmp_path / "a.pt")
    model = network()
    told = load_checkpoint(model, tmp_path / "a.pt", key=None, strict=True)
    assert told == f"9 of 9 tensors are from a.pt ({average})"
    torch.testing.assert_close(model[0].weight.detach(), trained["0.weight"], rtol=0, atol=0)
    load_checkpoint(model, tmp_path / "a.pt", key="state_dict", strict=True)
    assert not model[0].weight.any()


def test_an_average_without_tensors_is_passed_over(trained, tmp_path):
    assert_loads({"state_dict": trained, "ema": 0.999}, trained, tmp_path / "a.pt")


def test_numpy_numbers_beside_the_weights_are_no_code(trained, tmp_path):
    best = {"best": np.float64(0.91), "curve": np.arange(3.0)}
    assert_loads({"state_dict": trained, **best}, trained, tmp_path / "a.pt")


def test_a_random_backbone_is_refused_and_named(trained, tmp_path):
    torch.save({name: tensor for name, tensor in trained.items() if name[0] != "0"}, tmp_path / "a.pt")
    with pytest.raises(ModelError) as caught:
        load_checkpoint(network(), tmp_path / "a.pt", key=None, strict=False)
    assert "fills 18.8 % of the model's values; random would stay 0.weight, 0.bias" in str(caught.value)
    assert "model.allow_random=[0.*]" in str(caught.value)
    for strict in (True, False):
        told = load_checkpoint(network(), tmp_path / "a.pt", key=None, strict=strict, allow_random=["0.*"])
        assert told == "7 of 9 tensors are from a.pt; as the factory made them: 0.weight, 0.bias"


class Versioned(nn.Module):
    """Takes only what a part of a known version wrote, as torchvision's MNASNet does."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") not in (1, 2):
            raise ValueError(f"version should be set to 1 or 2 instead of {local_metadata.get('version')}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@pytest.mark.parametrize("plain", [True, False])
def test_parts_that_ask_for_the_version_of_what_wrote_them(tmp_path, plain):
    state = Versioned().state_dict()
    torch.save(dict(state) if plain else state, tmp_path / "w.pt")
    module = Versioned()
    assert load_checkpoint(module, tmp_path / "w.pt", key=None, strict=True).startswith("2 of 2 tensors")
    assert torch.equal(module.layer.weight, state["layer.weight"])


def test_a_module_that_refuses_to_load_is_one_line(tmp_path):
    class Stubborn(Versioned):
        def _load_from_state_dict(self, *_):
            raise KeyError("no such part")

    torch.save(Versioned().state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"does not load into Stubborn: .*no such part"):
        load_checkpoint(Stubborn(), tmp_path / "w.pt", key=None, strict=True)
