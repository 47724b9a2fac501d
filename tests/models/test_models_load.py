"""Every kind of model becomes an artifact that runs, or one line that says why not."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest
import torch
from doubles import ROOT
from pydantic import TypeAdapter, ValidationError
from torch import nn

from compress.config.compose import compose_tree
from compress.core.artifact import Artifact, Format, InputSpec, Precision
from compress.core.errors import ModelError
from compress.data import CsvData, DigitsData, ImageFolderData, load_splits
from compress.models import ModelConfig, load_model, model_digest, source_format

CONFIG = TypeAdapter(ModelConfig)
CONF = ROOT / "conf" / "model"
TINY = {"shape": [3, 16, 16]}


class Silent:
    def __init__(self):
        self.lines = []

    def track(self, items, description, total=None):
        self.lines.append(description)
        yield from items

    def log(self, message):
        self.lines.append(message)


def load(*, trusted=(), seed=0, finetune=None, progress=None, **options) -> Artifact:
    config = CONFIG.validate_python(options)
    progress = progress or Silent()
    return load_model(config, trusted=set(trusted).__contains__, seed=seed, progress=progress, finetune=finetune)


def top1(artifact: Artifact, split) -> float:
    hits = 0
    with torch.inference_mode():
        for batch in split.batches(64):
            hits += int((artifact.module(torch.from_numpy(batch.images)).argmax(1).numpy() == batch.labels).sum())
    return hits / len(split)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A user's module `my_nets` with one network and some mistakes."""
    (tmp_path / "my_nets.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def tiny(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),"
        " nn.Linear(4, 5))\n"
        "def number(): return 3\n"
        "def broken(): raise RuntimeError('no weights\\nsecond line')\n"
        "class Pair(nn.Module):\n"
        "    def forward(self, x): return x.flatten(1), x\n"
        "class Map(nn.Module):\n"
        "    def forward(self, x): return x\n"
        "class OneOnly(nn.Module):\n"
        "    def forward(self, x): return x.reshape(1, 768)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_nets", None)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_states_exactly_the_fields(path):
    text = path.read_text()
    assert text.startswith("# ")
    needed = {"factory": "factory=a:b", "file": "path=given", "torchvision": "name=given"}
    typed = [f"model.{needed[path.stem]}"] if path.stem in needed else []
    composed = compose_tree(["target=raspberry_pi_4", f"model={path.stem}", *typed])["model"]
    dumped = CONFIG.validate_python(composed).model_dump()
    assert set(dumped) == set(composed)
    assert set(dumped["input"]) == set(composed["input"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "digits", "epoch": 1}, "Extra inputs"),
        ({"kind": "digit"}, "does not match any of the expected tags"),
        ({"kind": "factory", "factory": "os.system"}, "String should match pattern"),
        ({"kind": "file", "path": "x", "input": {"shape": [1, 8, 8]}}, "does not fit 1 input channel"),
        ({"kind": "file", "path": "x", "input": {"std": [1, 1, 0]}}, "std must be positive"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        CONFIG.validate_python(options)


def test_source_format_is_known_before_loading():
    assert source_format(CONFIG.validate_python({"kind": "file", "path": "a.ONNX"})) is Format.ONNX
    assert source_format(CONFIG.validate_python({"kind": "file", "path": "a.pt2"})) is Format.TORCH
    assert source_format(CONFIG.validate_python({"kind": "digits"})) is Format.TORCH


# factory


def test_factory_needs_trust(package):
    with pytest.raises(ModelError) as caught:
        load(kind="factory", factory="my_nets:tiny", input=TINY)
    assert str(caught.value) == (
        "model.factory names the package 'my_nets', which this run does not trust "
        "(a configuration can run code through it) | fix: add trust=[my_nets] on the command line"
    )
    assert "my_nets" not in sys.modules


def test_factory_builds_seeded_weights(package):
    options = {"kind": "factory", "factory": "my_nets:tiny", "input": TINY, "trusted": ["my_nets"]}
    first, again, other = load(**options), load(**options), load(**options, seed=1)
    assert first.format is Format.TORCH
    assert first.precision is Precision.FP32
    assert first.dynamic_batch
    assert not first.module.training
    assert model_digest(first) == model_digest(again) != model_digest(other)


def test_a_factory_in_the_working_folder_is_found(tmp_path, monkeypatch):
    layers = "nn.Sequential(nn.Flatten(), nn.Linear(768, 5))"
    (tmp_path / "nets_of_this_folder.py").write_text(f"from torch import nn\ndef tiny(): return {layers}\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    load(kind="factory", factory="nets_of_this_folder:tiny", input=TINY, trusted=["nets_of_this_folder"])


def test_how_much_a_checkpoint_filled_is_said_and_noted(package):
    sys.modules.pop("my_nets", None)
    options = {"kind": "factory", "factory": "my_nets:tiny", "input": TINY, "trusted": ["my_nets"]}
    made = load(**options).module
    torch.save({name: value for name, value in made.state_dict().items() if name != "4.bias"}, package / "w.pt")
    partial, log = {"strict": False, "allow_random": ["4.bias"]}, Silent()
    loaded = load(**options, checkpoint=package / "w.pt", **partial, progress=log)
    line = "3 of 4 tensors are from w.pt; as the factory made them: 4.bias"
    assert loaded.notes == {"weights": line}
    assert log.lines == [line]
    assert load(**options).notes == {}


def test_loading_leaves_the_global_random_state_alone(package):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load(kind="factory", factory="my_nets:tiny", input=TINY, trusted=["my_nets"])
    torch.testing.assert_close(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("my_nets:tinny", r"has no function 'tinny'; did you mean 'tiny'"),
        ("my_nets:number", r"returned a int, not an nn.Module"),
        ("my_nets:broken", r"raised RuntimeError: no weights \| fix"),
        ("my_nets:Pair", r"returns a tuple, not one tensor \[N, classes\]"),
        ("my_nets:Map", r"returns the shape \(1, 3, 16, 16\) for a batch of 1, not \[1, classes\]"),
        ("absent_package:net", r"no module named 'absent_package' \| fix: install it"),
    ],
)
def test_factory_mistakes(package, factory, message):
    with pytest.raises(ModelError, match=message):
        load(kind="factory", factory=factory, input=TINY, trusted=["my_nets", "absent_package"])


def test_forward_that_fails_names_the_shape(package):
    with pytest.raises(
        ModelError, match=r"fails on the declared input \(1, 1, 8, 8\): .*expected input.*to have 3 chan"
    ):
        load(
            kind="factory",
            factory="my_nets:tiny",
            trusted=["my_nets"],
            input={"shape": [1, 8, 8], "channel_order": "gray", "mean": [0], "std": [1]},
        )


def test_a_network_for_one_image_only(package):
    assert not load(kind="factory", factory="my_nets:OneOnly", input=TINY, trusted=["my_nets"]).dynamic_batch


# torchvision


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "mobilenet_v3_small"])
def test_torchvision_random_weights_are_seeded(name):
    options = {"kind": "torchvision", "name": name, "num_classes": 7, "input": {"shape": [3, 64, 64]}}
    first, again = load(**options), load(**options)
    assert model_digest(first) == model_digest(again)
    assert first.module(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    assert not [key for key in first.module.state_dict() if "aux" in key.lower()]


def test_torchvision_never_downloads_random_weights(monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloaded"))
    load(kind="torchvision", name="squeezenet1_1", input={"shape": [3, 64, 64]})


def test_torchvision_mistakes():
    with pytest.raises(ModelError, match=r"unknown torchvision model 'resnet81'; did you mean 'resnet18'"):
        load(kind="torchvision", name="resnet81")
    with pytest.raises(ModelError, match=r"has no weights 'IMAGENET'; did you mean 'IMAGENET1K_V1'"):
        load(kind="torchvision", name="resnet18", weights="IMAGENET")


def test_torchvision_weights_offline(tmp_path, monkeypatch):
    from urllib.error import URLError

    def offline(*_args, **_options):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        ModelError, match=r"resnet18-f37072fd.pth could not be downloaded: no network \| fix: fetch https"
    ) as e:
        load(kind="torchvision", name="resnet18", weights="DEFAULT")
    assert str(tmp_path / "checkpoints" / "resnet18-f37072fd.pth") in str(e.value)


def test_torchvision_weights_from_the_cache_are_read_safely(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    cached.parent.mkdir()
    torch.save(torchvision.models.squeezenet1_1().state_dict(), cached)
    artifact = load(kind="torchvision", name="squeezenet1_1", weights="DEFAULT", input={"shape": [3, 64, 64]})
    assert artifact.module(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    torch.save(nn.Linear(1, 1), cached)
    with pytest.raises(ModelError, match="contains pickled code"):
        load(kind="torchvision", name="squeezenet1_1", weights="DEFAULT")


# digest


def test_digest_sees_weights_structure_options_and_source(tmp_path, monkeypatch):
    spec = InputSpec((3, 8, 8))

    def digest(module: nn.Module) -> str:
        return model_digest(Artifact(Format.TORCH, module, Precision.FP32, spec))

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    base = digest(net)
    assert digest(net) == base
    assert digest(nn.Sequential(net[0], nn.ReLU(), net[1])) != base
    net[0].stride = (2, 2)
    assert digest(net) != base
    net[0].stride = (1, 1)
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] += 1e-6
    assert digest(net) != base

    monkeypatch.syspath_prepend(tmp_path)
    digests = set()
    for number, body in enumerate(("x.relu()", "x.tanh()")):
        text = f"from torch import nn\nclass Net(nn.Module):\n    def forward(self, x): return {body}\n"
        (tmp_path / f"net_{number}.py").write_text(text)
        digests.add(digest(__import__(f"net_{number}").Net()))
    assert len(digests) == 2


# embedded default


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: str(tmp_path / "cache"))
    return tmp_path / "cache"


def digits_splits(**options):
    return load_splits(DigitsData(**options), InputSpec((1, 32, 32), "gray", (0.5,), (0.5,)))


def test_digits_model_trains_well_and_is_cached_by_content(cache):
    splits = digits_splits()
    progress = Silent()
    artifact = load(kind="digits", finetune=splits.finetune, progress=progress)
    assert "training the digits model" in progress.lines
    assert top1(artifact, splits.evaluation) >= 0.97
    assert 60_000 < sum(parameter.numel() for parameter in artifact.module.parameters()) < 80_000
    (file,) = cache.iterdir()

    again = Silent()
    assert model_digest(load(kind="digits", finetune=splits.finetune, progress=again)) == model_digest(artifact)
    assert again.lines == []
    assert not artifact.module.training
    assert file.suffix == ".safetensors"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "garbage"])
def test_damaged_cache_is_trained_again_with_the_same_result(cache, damage):
    few = digits_splits(finetune=32).finetune
    first = model_digest(load(kind="digits", epochs=1, finetune=few))
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes({"truncated": content[:-50], "flipped": content, "garbage": b"garbage"}[damage])
    progress = Silent()
    assert model_digest(load(kind="digits", epochs=1, finetune=few, progress=progress)) == first
    assert progress.lines == ["training the digits model"]


def test_unwritable_cache_is_only_reported(cache):
    cache.write_text("a file where the folder should be")
    progress = Silent()
    load(kind="digits", epochs=1, finetune=digits_splits(finetune=32).finetune, progress=progress)
    assert progress.lines[-1].startswith("the trained model is not cached: cannot write")


def test_a_full_disk_costs_the_cache_and_not_the_model(cache):
    few = digits_splits(finetune=32).finetune
    digest = model_digest(load(kind="digits", epochs=1, finetune=few))
    (file,) = cache.iterdir()
    file.unlink()
    progress = Silent()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # as a full disk
    try:
        again = load(kind="digits", epochs=1, finetune=few, progress=progress)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert model_digest(again) == digest
    assert progress.lines[-1].startswith("the trained model is not cached: cannot write")
    assert list(cache.iterdir()) == []


def test_another_seed_or_other_data_is_another_model(cache):
    for options in ({"seed": 0}, {"seed": 1}, {"epochs": 2}):
        load(**{"kind": "digits", "epochs": 1, "finetune": digits_splits(finetune=32).finetune, **options})
    load(kind="digits", epochs=1, finetune=digits_splits(finetune=33).finetune)
    assert len(list(cache.iterdir())) == 4


def test_digits_model_without_training_data():
    with pytest.raises(ModelError, match="trained on the fine-tuning split, which is empty"):
        load(kind="digits", finetune=digits_splits(finetune=0).finetune)


# real models


@pytest.mark.real_data
def test_resnet20_from_its_real_checkpoint(shared_data, monkeypatch):
    monkeypatch.syspath_prepend(shared_data)
    artifact = load(
        kind="factory",
        factory="nets:resnet20",
        checkpoint=shared_data / "weights/resnet20-12fca82f.th",
        trusted=["nets"],
        input={"shape": [3, 32, 32]},
    )
    images = shared_data / "images"
    data = ImageFolderData(
        kind="image_folder", train=images / "cifar10_train4000", test=images / "cifar10_test500", finetune=0
    )
    splits = load_splits(data, artifact.input)
    assert top1(artifact, splits.evaluation) == pytest.approx(0.928, abs=1e-9)
    assert len(splits.evaluation) == 500


@pytest.mark.real_data
def test_mobilenet_v1_on_the_nips_images(shared_data, monkeypatch):
    monkeypatch.syspath_prepend(shared_data)
    artifact = load(
        kind="factory",
        factory="nets:MobileNetV1_025",
        checkpoint=shared_data / "weights/mobilenetv1_0.25_state_dict.pt",
        trusted=["nets"],
    )
    data = CsvData(
        kind="csv",
        file=shared_data / "images/nips2017/labels_and_attribution.csv",
        path_column="file",
        label_column="imagenet_class_0based",
        resize=256,
        classes=1000,
        calibration=1,
        validation=0,
        finetune=0,
    )
    splits = load_splits(data, artifact.input)
    assert len(splits.evaluation) == 399
    assert 0.45 < top1(artifact, splits.evaluation) < 0.55
    assert np.isfinite(next(splits.calibration.batches(1)).images).all()


def test_broken_weights_are_refused_at_load(package):
    state = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    ).state_dict()
    state["0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, package / "w.pt")
    with pytest.raises(ModelError, match=r"tensor 0.weight holds 1 values that are not numbers \(NaN\), of 108"):
        load(kind="factory", factory="my_nets:tiny", checkpoint=package / "w.pt", trusted=["my_nets"], input=TINY)
