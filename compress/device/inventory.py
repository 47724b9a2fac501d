"""`devices.yaml`: names for boards, so that a run says `device.host=kitchen_pi`.

    kitchen_pi: {host: pi@192.168.1.20, target: raspberry_pi_4}
    bench_nano: {host: "nvidia@nano:2222", identity: ~/.ssh/bench}

There is no place for a password: keys, an agent, or ~/.ssh/config.

An SSH configuration names programs (`ProxyCommand`, `Match exec`), so an inventory may only name one if it was named
itself: one that merely lies in the working folder may have come with a download.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from compress.core.errors import ConfigError, nearest
from compress.device.transport import LocalTransport, SshTransport, Transport
from compress.support.plain_yaml import read_yaml
from compress.support.reading import home_expanded, is_file

__all__ = ["INVENTORY", "Board", "find_devices", "read_inventory"]

INVENTORY = Path("devices.yaml")
_ADDRESS = re.compile(r"[@:]")


class Board(BaseModel):
    """One entry.

    Attributes:
        host: `user@host[:port]`, an alias of the SSH configuration, or `local`.
        target: the device profile it is; a bundle for another is refused before it is copied.
        identity: file of a private key.
        ssh_config: file to read instead of ~/.ssh/config.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    host: str
    target: str | None = None
    identity: Path | None = None
    ssh_config: Path | None = None


def read_inventory(path: Path) -> dict[str, Board]:
    """The boards of a file by name.

    Raises:
        ConfigError: there is no such file, or it says something else than the example above.
    """
    document = read_yaml(path, "the inventory")
    try:
        return TypeAdapter(dict[str, Board]).validate_python({} if document is None else document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{path}: unknown key {where!r}: {nearest(where, Board.model_fields)}") from error
        raise ConfigError(f"{path}: {where}: {first['msg']}", fix="write name: {host: user@host}") from error


def find_devices(
    names: Sequence[str],
    *,
    inventory: Path | None,
    target: str | None,
    identity: Path | None = None,
    ssh_config: Path | None = None,
) -> dict[str, Transport]:
    """The way to each device, by the name it was given: by its name in the inventory, or as `user@host[:port]`.

    What was written as `user@host` or `host:port` is never looked up: no file can put another machine in its place.

    Args:
        inventory: file that the user named; None takes `devices.yaml` of the working folder, if it is there.
        target: of the bundle; None where any device will do.

    Raises:
        ConfigError: the inventory is unusable, a name is neither in it nor a host, a board is of another target, or
            an inventory that nobody named wants an SSH configuration or key of its own.
    """
    names_only = [name for name in names if not _ADDRESS.search(name)]
    boards = read_inventory(inventory or INVENTORY) if names_only and (inventory or is_file(INVENTORY)) else {}
    boards = {name: boards[name] for name in names_only if name in boards}
    if inventory is None:
        _refuse_own_settings(boards)
    return {name: _transport(name, boards.get(name), target, identity, ssh_config) for name in names}


def _refuse_own_settings(boards: Mapping[str, Board]) -> None:
    for name, board in boards.items():
        if board.ssh_config is not None or board.identity is not None:
            key = "ssh_config" if board.ssh_config is not None else "identity"
            raise ConfigError(
                f"{INVENTORY} of the working folder gives {name!r} a file for SSH ({key}), which can start programs; "
                "it is only followed where you name the inventory yourself",
                fix=f"device.inventory={INVENTORY}, or --devices {INVENTORY} with compress.device",
            )


def _transport(
    name: str, board: Board | None, target: str | None, identity: Path | None, config: Path | None
) -> Transport:
    if board is None:
        return LocalTransport() if name == "local" else SshTransport(name, identity, config)
    if target is not None and board.target not in (None, target):
        raise ConfigError(
            f"the bundle is for {target}, and the inventory says that {name} is a {board.target}",
            fix=f"make a bundle for it: target={board.target}",
        )
    if board.host == "local":
        return LocalTransport(name)
    key, own = (_expanded(path, name) for path in (board.identity or identity, board.ssh_config or config))
    return SshTransport(board.host, key, own)


def _expanded(path: Path | None, name: str) -> Path | None:
    try:
        return None if path is None else home_expanded(path)
    except OSError as error:
        raise ConfigError(f"{name}: {path}: {error.strerror}") from error
