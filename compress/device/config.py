"""The `device` part of a run's configuration: which boards measure the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DeviceConfig"]


class DeviceConfig(BaseModel):
    """Devices that measure the finished bundle.

    Attributes:
        host: one device: `user@host[:port]`, an entry of the inventory, or `local` for this machine.
        hosts: several, measured at the same time.
        inventory: file with the devices' names, honoured on the command line only, as it may name programs (an SSH
            configuration); `null` looks for `devices.yaml` in the working folder.
        seconds: longest time for one figure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    host: str | None = None
    hosts: tuple[str, ...] = ()
    inventory: Path | None = None
    seconds: Annotated[float, Field(gt=0)] = 30.0

    @property
    def names(self) -> tuple[str, ...]:
        """All devices asked for, each once."""
        return tuple(dict.fromkeys([*([self.host] if self.host else []), *self.hosts]))
