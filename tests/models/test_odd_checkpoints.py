"""Checkpoints that nobody would write on purpose: one line each, and what can be read is read."""

from __future__ import annotations

import contextlib
import io
import pickle
import random
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from doubles import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from compress.core.errors import CompressError, ModelError
from compress.models.checkpoint import load_checkpoint, read_state_dict

SCRIPTS = ROOT / "scripts"


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.fixture
def trained():
    torch.manual_seed(1)
    return {name: torch.rand_like(t) if t.is_floating_point() else t for name, t in network().state_dict().items()}


def load(path, **options):
    return load_checkpoint(network(), path, key=options.get("key"), strict=options.get("strict", True))


def refused(path, message, **options):
    with pytest.raises(ModelError, match=message) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)


def test_a_wrapper_that_holds_itself_has_no_end(tmp_path):
    around = {}
    around["state_dict"] = {"model": {"net": around}}
    torch.save(around, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "holds no state dict; its keys: state_dict")


def test_a_state_dict_that_holds_itself_is_one(trained, tmp_path):
    content = dict(trained)
    content["state_dict"] = content
    torch.save({"model": content}, tmp_path / "a.pt")
    assert load(tmp_path / "a.pt") == "9 of 9 tensors are from a.pt (model)"


@pytest.mark.parametrize(("levels", "read"), [(9, True), (10, False), (300, False)])
def test_wrappers_in_one_another(trained, tmp_path, levels, read):
    content = trained
    for _ in range(levels):
        content = {"state_dict": content}
    torch.save(content, tmp_path / "a.pt")
    if read:
        assert load(tmp_path / "a.pt").startswith("9 of 9")
    else:
        refused(tmp_path / "a.pt", "holds no state dict")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_two_tensors_of_one_name_are_named_where_they_differ(trained, tmp_path, prefix):
    torch.save({**trained, **{f"{prefix}{name}": tensor for name, tensor in trained.items()}}, tmp_path / "a.pt")
    assert load(tmp_path / "a.pt").startswith("9 of 9")
    torch.save({**trained, f"{prefix}0.weight": trained["0.weight"] + 1}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", rf"has two different tensors for 0\.weight: 0\.weight, {prefix}0\.weight")


def test_names_that_are_no_text_are_none_of_the_model(trained, tmp_path):
    torch.save({**trained, 1: torch.zeros(1), b"\xff": torch.zeros(1), "1": torch.zeros(1)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", r"3 unexpected: <int key 9>, <bytes key 10>, 1")
    assert load(tmp_path / "a.pt", strict=False).startswith("9 of 9")


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (lambda t: torch.nested.nested_tensor([t.flatten()]), "0.weight is float32 nested but the model has float32"),
        (lambda t: t.flatten(1).to_sparse_csr(), r"0\.weight is \(4, 27\) but.*0\.weight is float32 sparse_csr but"),
        (lambda t: t[:0], r"0\.weight is \(0, 3, 3, 3\) but the model has"),
        (lambda t: t.flatten()[:1].expand(1 << 40), r"0\.weight is \(1099511627776,\) but the model has"),
        (lambda t: torch.quantize_per_channel(t, torch.ones(4), torch.zeros(4), 0, torch.qint8), "0.weight is qint8"),
        (lambda t: t.untyped_storage(), "1 missing: 0.weight|no readable tensors"),
        (lambda t: t.tolist(), "1 missing: 0.weight"),
        (lambda t: None, "1 missing: 0.weight"),
    ],
)
def test_what_is_no_plain_tensor_is_named(trained, tmp_path, odd, message):
    torch.save({**trained, "0.weight": odd(trained["0.weight"])}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", message)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t.flatten()[:1].expand(t.shape),
        lambda t: torch.as_strided(t, t.shape, (1, 1, 1, 1)),
        lambda t: t.transpose(2, 3),
        lambda t: torch.conj(t.to(torch.complex64)).imag,
    ],
)
def test_values_of_odd_strides_arrive_as_they_are(trained, tmp_path, view):
    odd = view(trained["0.weight"])
    torch.save({**trained, "0.weight": odd}, tmp_path / "a.pt")
    model = network()
    load_checkpoint(model, tmp_path / "a.pt", key=None, strict=True)
    assert torch.equal(model[0].weight.detach(), odd.contiguous().resolve_neg())


def edited(path: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in members.items():
            archive.writestr(name, content if name.endswith(member) else old)


PICKLES = {
    "Python 2": b"}(U\x04\xff\xfea\x80K\x01u.",
    "no text": b"\x80\x02}X\x02\x00\x00\x00\xff\xfeK\x01s.",
    "deep": b"\x80\x02" + b"](" * 50_000 + b".",
    "memo": b"\x80\x02h\xff.",
    "long text": b"\x80\x02X\xff\xff\xff\x7faaa.",
    "no arguments": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "wrong arguments": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))\x89ccollections\nOrderedDict\n)RtR.",
    "type for a storage": b"\x80\x02(X\x07\x00\x00\x00storage"
    b"ctorch.storage\nUntypedStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ.",
    "number for a record": b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nK\x00X\x03\x00\x00\x00cpuK\x04tQ.",
    "built": b"\x80\x02ccollections\nOrderedDict\n)R}X\x01\x00\x00\x00aK\x01sb.",
    "protocol": b"\x80\x63}.",
}


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("archived", [True, False])
def test_a_damaged_pickle_is_one_line(trained, tmp_path, kind, archived):
    path = tmp_path / "a.pt"
    if archived:
        torch.save(trained, path)
        edited(path, "data.pkl", PICKLES[kind])
    else:
        path.write_bytes(PICKLES[kind])
    with pytest.raises(
        ModelError, match=r"is truncated or not a checkpoint|holds no state dict|pickled code"
    ) as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_a_directory_of_names_that_are_no_text_is_one_line(trained, tmp_path):
    torch.save(trained, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes().replace(b"/data.pkl", b"/data\xaf\xffkl")
    start = content.index(b"PK\x01\x02")  # the directory; bit 11 of an entry's flags says that its name is UTF-8
    content = content[: start + 9] + bytes([content[start + 9] | 8]) + content[start + 10 :]
    (tmp_path / "a.pt").write_bytes(content)
    refused(tmp_path / "a.pt", "is truncated or not a checkpoint")


def test_the_format_of_old_releases_is_named(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(0, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    (tmp_path / "a.pt").write_bytes(buffer.getvalue())
    refused(tmp_path / "a.pt", r"not a checkpoint: it is of PyTorch 0\.1\.1 or older \(a tar file\)")


def try_seed(seed: int, folder: Path) -> None:
    from robustness_checkpoints import checkpoint_case

    case = checkpoint_case(random.Random(seed))
    case.prepare(folder)
    with contextlib.suppress(CompressError):
        case.run()


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("robustness_checkpoints", "robustness_states", "robustness_case"):
        sys.modules.pop(name, None)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
@pytest.mark.filterwarnings("ignore")
def test_any_checkpoint_is_read_or_one_line(scripts, seed):
    try_seed(seed, scripts)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
@pytest.mark.filterwarnings("ignore")
def test_many_checkpoints_are_read_or_one_line(scripts, seed):
    try_seed(seed, scripts)
