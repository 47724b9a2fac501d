"""Classification models of torchvision, with random or pretrained weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import torch
from torch import nn

from compress.core.errors import ModelError, nearest
from compress.models.checkpoint import read_state_dict
from compress.models.configs import TorchvisionModel
from compress.support.garbage import collector_paused
from compress.support.quiet import first_line

__all__ = ["build_torchvision"]


@collector_paused()
def build_torchvision(config: TorchvisionModel, seed: int) -> nn.Module:
    """Build the model; downloads only when `config.weights` names weights that are not on this machine.

    Raises:
        ModelError: unknown name or weights, weights not available, or wrong number of classes.
    """
    from torchvision import models

    names = models.list_models(module=models)
    if config.name not in names:
        raise ModelError(
            f"unknown torchvision model {config.name!r}; {nearest(config.name, names)}", fix="model.name=<one of these>"
        )
    builder = models.get_model_builder(config.name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if config.weights is None:
                return _random(builder, config.name, config.num_classes)
            return _pretrained(builder, config.name, config.weights, config.num_classes)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"torchvision model {config.name} cannot be built: {first_line(error)}",
            fix="leave out model.num_classes, or model.weights=null",
        ) from error


_AUXILIARY = frozenset({"googlenet", "inception_v3"})
"""Models with heads that exist for training only and would be counted, pruned and exported for nothing."""


def _random(builder: Callable[..., nn.Module], name: str, num_classes: int | None) -> nn.Module:
    options: dict[str, int | bool] = {} if num_classes is None else {"num_classes": num_classes}
    if name in _AUXILIARY:
        options |= {"aux_logits": False, "init_weights": False}
    return builder(weights=None, **options)


def _pretrained(builder: Callable[..., nn.Module], name: str, weights: str, num_classes: int | None) -> nn.Module:
    from torchvision import models

    choices = models.get_model_weights(name).__members__
    if weights not in choices:
        raise ModelError(
            f"torchvision model {name} has no weights {weights!r}; {nearest(weights, choices)}",
            fix="model.weights=null",
        )
    chosen = choices[weights]
    # torchvision unpickles the file without restrictions: read it here first, where code is refused
    read_state_dict(_fetched(str(chosen.url)))
    options = {} if num_classes is None else {"num_classes": num_classes}
    model = builder(weights=chosen, progress=False, **options)
    if name == "inception_v3":  # its builder insists on the auxiliary head when weights are given
        setattr(model, "aux_logits", False)  # noqa: B010 - plain assignment would need the class imported
        setattr(model, "AuxLogits", None)  # noqa: B010
    return model


def _fetched(url: str) -> Path:
    """The weights file in torch's cache, downloaded and checked against the hash in its name if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=_hash_in(path.stem), progress=sys.stderr.isatty())
    except (URLError, OSError, RuntimeError) as error:
        reason = error.reason if isinstance(error, URLError) else first_line(error)
        raise ModelError(
            f"pretrained weights {path.name} could not be downloaded: {reason}",
            fix=f"fetch {url} elsewhere and put it at {path}, or model.weights=null for random weights",
        ) from error
    return path


def _hash_in(stem: str) -> str | None:
    """First digits of the file's SHA-256, which torchvision writes behind the last dash of the name."""
    prefix = stem.rpartition("-")[2]
    return prefix if len(prefix) >= 8 and all(digit in "0123456789abcdef" for digit in prefix) else None
