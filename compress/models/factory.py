"""`package.module:function`: the one place where a configuration may lead to running a user's code."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import torch
from torch import nn

from compress.core.errors import ModelError, nearest
from compress.models.checkpoint import load_checkpoint
from compress.models.configs import FactoryModel
from compress.support.quiet import first_line
from compress.support.working_folder import trust_working_folder

__all__ = ["build_from_factory"]


def build_from_factory(
    config: FactoryModel, trusted: Callable[[str], bool], seed: int, say: Callable[[str], None]
) -> nn.Module:
    """Import the factory's package if it is trusted, call it, and load the checkpoint; `say` tells how much of it.

    Raises:
        ModelError: not trusted, not importable, not a module, or the checkpoint does not fit.
    """
    module_name, _, name = config.factory.partition(":")
    package = module_name.partition(".")[0]
    if not trusted(package):
        raise ModelError(
            f"model.factory names the package {package!r}, which this run does not trust "
            "(a configuration can run code through it)",
            fix=f"add trust=[{package}] on the command line",
        )
    trust_working_folder(package)
    model = _call(_attribute(_import(module_name), name), config.factory, seed)
    if config.checkpoint is not None:
        say(
            load_checkpoint(
                model, config.checkpoint, key=config.key, strict=config.strict, allow_random=config.allow_random
            )
        )
    return model


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        raise ModelError(
            f"model.factory: cannot import {name!r}: no module named {missing!r}",
            fix="install it, or put its folder on PYTHONPATH",
        ) from error
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ModelError(
            f"model.factory: importing {name!r} failed: {type(error).__name__}: {first_line(error)}",
            fix=f"make `import {name}` work",
        ) from error


def _attribute(module: ModuleType, name: str) -> Callable[[], object]:
    factory: object = getattr(module, name, None)
    if not callable(factory):
        choices = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise ModelError(
            f"model.factory: {module.__name__} has no function {name!r}; {nearest(name, choices)}",
            fix=f"model.factory={module.__name__}:<function>",
        )
    return factory


def _call(factory: Callable[[], object], name: str, seed: int) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = factory()
    except Exception as error:  # whatever the user's factory raises
        raise ModelError(
            f"model.factory {name} raised {type(error).__name__}: {first_line(error)}",
            fix="make the factory work without arguments",
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model.factory {name} returned a {type(model).__name__}, not an nn.Module",
            fix="return the network from the factory",
        )
    return model
