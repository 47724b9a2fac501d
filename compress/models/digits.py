"""The embedded default model: a residual network for the digits, trained here and cached by content.

Architecture after He et al., "Deep Residual Learning for Image Recognition" (2016), scaled to 78 k parameters; schedule
after Smith and Topin, "Super-Convergence" (2018).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import platformdirs
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from compress.core.errors import ModelError, StageError
from compress.core.stage import Progress, Split
from compress.formats.digest import tensors_digest
from compress.models.configs import DigitsModel
from compress.support.files import sha256_file, write_bytes

__all__ = ["DigitsNet", "load_digits_model"]

_CLASSES = 10
_BATCH = 32
_PEAK_RATE = 0.01
_WEIGHT_DECAY = 1e-4
_SHIFT = 2
"""Largest random shift of a training image in pixels of the 32x32 input, half a pixel of the 8x8 original."""


class DigitsNet(nn.Module):
    """Stem, three residual blocks (16, 32, 64 channels), global average pool, linear layer.

    The stem halves the image at once: the digits were scaled up fourfold, so nothing is lost and training is 4x faster.
    Input float32 `[N, channels, H, W]`, output logits `[N, 10]`.
    """

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(ResidualBlock(16, 16, 1), ResidualBlock(16, 32, 2), ResidualBlock(32, 64, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, _CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.pool(self.blocks(self.stem(images)))
        logits: torch.Tensor = self.classifier(torch.flatten(features, 1))
        return logits


class ResidualBlock(nn.Module):
    """`relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))`, `[N, in, H, W]` to `[N, out, H/stride, W/stride]`."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu2 = nn.ReLU()
        changes = stride != 1 or channels_in != channels_out
        projection = (nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))
        self.shortcut: nn.Module = nn.Sequential(*projection) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        result: torch.Tensor = self.relu2(y + self.shortcut(x))
        return result


def load_digits_model(config: DigitsModel, finetune: Split, seed: int, progress: Progress) -> nn.Module:
    """The trained network, from the cache where this very training was done before.

    The cache key covers the training data, its preprocessing, the hyper-parameters, this file, the seed and torch's
    version. A cache file that is damaged is trained again, and a cache folder that cannot be written is only reported.
    """
    path = Path(platformdirs.user_cache_dir("edge-compress")) / f"digits-{_key(config, finetune, seed)}.safetensors"
    model = _initial(config.input.shape[0], seed)
    if _restore(model, path):
        return model
    _train(model, config, finetune, seed, progress)
    try:
        _store(model, path)
    except StageError as error:
        progress.log(f"the trained model is not cached: {error.problem}")
    return model


def _initial(channels: int, seed: int) -> DigitsNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DigitsNet(channels)


def _key(config: DigitsModel, finetune: Split, seed: int) -> str:
    recipe = {
        "source": sha256_file(Path(__file__)),  # an edit to the network or its training must not find old weights
        "config": config.model_dump(mode="json"),
        "data": finetune.digest(),
        "seed": seed,
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]


def _restore(model: nn.Module, path: Path) -> bool:
    """Fill `model` from the cache; False where the file is missing, damaged or not what its digest says."""
    try:
        with safe_open(path, framework="pt") as stored:
            state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
            intact = (stored.metadata() or {}).get("sha256") == tensors_digest(state)
        if intact:
            model.load_state_dict(state)
        return intact
    except (OSError, SafetensorError, RuntimeError):
        return False


def _store(model: nn.Module, path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    # into memory first: the writer of safetensors makes an error of its own of a full disk
    write_bytes(path, save(state, metadata={"sha256": tensors_digest(state)}))


def _train(model: DigitsNet, config: DigitsModel, finetune: Split, seed: int, progress: Progress) -> None:
    """AdamW with a one-cycle learning rate on shifted images; the global random state is left as it was."""
    images, labels = _in_memory(finetune)
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), _one_thread():
        torch.manual_seed(seed)
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, weight_decay=_WEIGHT_DECAY)
        steps = config.epochs * -(-len(images) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=steps)
        for _ in progress.track(range(config.epochs), "training the digits model", total=config.epochs):
            for chosen in torch.randperm(len(images)).split(_BATCH):
                loss = F.cross_entropy(model(_shifted(images[chosen])), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    model.eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Train on one core: the sums are then in the same order on every machine, and a busy machine does not stall.

    The layers are so small that a second thread gains little, and one that has to wait for a core costs up to 20x.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _in_memory(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """All samples: `[N, C, H, W]` and `[N]`."""
    batches = list(split.batches(256))
    labels = np.concatenate([batch.labels for batch in batches])
    if labels.max() >= _CLASSES:
        raise ModelError(
            f"model=digits has {_CLASSES} outputs but the data has the label {labels.max()}", fix="data=digits"
        )
    return torch.from_numpy(np.concatenate([batch.images for batch in batches])), torch.from_numpy(labels)


def _shifted(images: torch.Tensor) -> torch.Tensor:
    """Each batch moved by a random offset, edges repeated."""
    height, width = images.shape[2:]
    padded = F.pad(images, (_SHIFT,) * 4, mode="replicate")
    top, left = (int(offset) for offset in torch.randint(2 * _SHIFT + 1, (2,)))
    return padded[:, :, top : top + height, left : left + width]
