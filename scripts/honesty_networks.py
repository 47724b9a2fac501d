"""Eight torchvision networks for `honesty_budget.py`, trained on the small CIFAR-10 below `--data`.

    python scripts/honesty_networks.py --weights FOLDER [--data FOLDER] [--nets resnet18 ...] [--epochs 150]

Weights of torchvision have to be downloaded; these do not. Each network learns in minutes on a GPU and in an hour on a
CPU, at 64x64 pixels, from the images that `held_out` does not keep for calibration and validation. The functions are
what `model.factory` names. Needs torch and torchvision alone.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

NAMES = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "squeezenet1_1",
    "resnet18",
    "shufflenet_v2_x1_0",
    "efficientnet_b0",
    "regnet_y_400mf",
    "mnasnet1_0",
)
SIDE = 64
_CLASSES, _HELD_OUT = 10, 50  # images a class
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BATCH, _RATE, _DECAY = 128, 2e-3, 0.05
_RATES = {"squeezenet1_1": 5e-4}  # no normalisation in it


def build(name: str) -> nn.Module:
    """The network with random weights and ten classes."""
    module = torchvision.models.get_model(name, weights=None, num_classes=_CLASSES)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):  # MNASNet's 0.0003 is for a thousand times as many steps
            part.momentum = 0.1
    return module


def __getattr__(name: str):  # noqa: ANN202 - a factory, as `model.factory=honesty_networks:resnet18` asks for it
    if name in NAMES:
        return lambda: build(name)
    raise AttributeError(name)


def _images_by_class(data: Path) -> dict[str, list[Path]]:
    folders = sorted(path for path in (data / "images/cifar10_train4000").iterdir() if path.is_dir())
    return {folder.name: sorted(folder.glob("*.png")) for folder in folders}


def held_out(data: Path, folder: Path) -> Path:
    """Copy the images that no network here was trained on to `folder`, in ImageFolder layout."""
    for name, paths in _images_by_class(data).items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path in paths[-_HELD_OUT:]:
            shutil.copy(path, folder / name / path.name)
    return folder


def _training_images(data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `[N, 3, 32, 32]` in [0, 1] and labels `[N]`."""
    from torchvision.io import ImageReadMode, decode_image

    images, labels = [], []
    for label, paths in enumerate(_images_by_class(data).values()):
        images += [decode_image(str(path), ImageReadMode.RGB) for path in paths[:-_HELD_OUT]]
        labels += [label] * len(paths[:-_HELD_OUT])
    return torch.stack(images).float() / 255, torch.tensor(labels)


def train(name: str, data: Path, epochs: int) -> dict[str, torch.Tensor]:
    """State of the network after so many passes over the training images."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = (tensor.to(device) for tensor in _training_images(data))
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    net = build(name).to(device).train()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=_DECAY)
    steps = len(images) // _BATCH
    rate = _RATES.get(name, _RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * steps)
    for epoch in range(epochs):
        for chosen in torch.randperm(len(images), device=device)[: steps * _BATCH].view(steps, _BATCH):
            batch = _augmented((images[chosen] - mean) / std)
            loss = F.cross_entropy(net(batch), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if epoch % 10 == 9:
            print(f"{name}: epoch {epoch + 1}, loss {float(loss.detach()):.3f}", flush=True)
    return {key: value.cpu() for key, value in net.state_dict().items()}


def _augmented(images: torch.Tensor) -> torch.Tensor:
    """`[N, 3, 32, 32]` mirrored, moved by up to 4 pixels, and enlarged to `SIDE`."""
    if torch.rand(()) < 0.5:
        images = images.flip(3)
    down, right = torch.randint(0, 9, (2,)).tolist()
    moved = F.pad(images, (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]
    return F.interpolate(moved, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data")
    parser.add_argument("--weights", type=Path, required=True, help="folder for <network>.pt")
    parser.add_argument("--nets", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--epochs", type=int, default=150)
    options = parser.parse_args()
    options.weights.mkdir(parents=True, exist_ok=True)
    for name in options.nets:
        torch.save(train(name, options.data, options.epochs), options.weights / f"{name}.pt")


if __name__ == "__main__":
    main()
