"""Hydra's way to a folder of the user's own configurations: through the one reader of YAML (`plain_yaml`).

Hydra reads files by itself, with a loader that builds other types than plain ones, follows aliases without end and
waits for FIFOs. Its sources of configurations are plug-ins, found by the scheme of a search path: `plain://` is ours.

It also follows lists of defaults without end, as long as they do not lead in a circle: of thirty files, each of which
names the next one twice, it makes a thousand million. So what is asked of its cache of files is counted.
"""

from __future__ import annotations

from pathlib import Path

from hydra._internal import config_loader_impl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import Container, OmegaConf

from compress.config.limits import values_in
from compress.core.errors import ConfigError
from compress.support.plain_yaml import parse_yaml
from compress.support.reading import read_text

__all__ = ["SCHEME", "register"]

SCHEME = "plain"
_LARGEST_BYTES = 1 << 18
"""Bytes of one file of a recipe; the largest of this package has 2 KiB."""

_MOST_NODES = 5_000
"""Fifty times the largest file of a recipe; OmegaConf takes half a millisecond for each."""
_MOST_WORK = 20_000
"""Values of all files that Hydra asks its cache for in one composition, a few seconds: twice what a recipe with 30
stages on top of its target's has."""
_FILE_WEIGHT = 50
"""What a file costs by itself, in values."""

_HEADER_CHARACTERS = 512  # in which Hydra looks for `# @package`


class _PlainSource(FileConfigSource):
    """A folder whose files hold plain values."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """One file of the folder, by its path without suffix.

        Raises:
            ConfigError: it cannot be read, or is not a mapping of plain values.
        """
        path = Path(self.path) / self._normalize_file_name(config_path)
        try:
            text = read_text(path, _LARGEST_BYTES)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
        content = parse_yaml(text, str(path), nodes=_MOST_NODES)
        if content is None:
            content = {}
        if not isinstance(content, dict):
            raise ConfigError(f"{path} is no mapping", fix="write key: value")
        header = self._get_header_dict(text[:_HEADER_CHARACTERS])
        source = f"{SCHEME}://{self.path}"
        return ConfigResult(config=OmegaConf.create(content), path=source, provider=self.provider, header=header)


class _BoundedRepository(CachingConfigRepository):
    """The files of one composition. Each is asked for a few times wherever it is named: its header, its defaults, its
    values."""

    def __init__(self, delegate: IConfigRepository) -> None:
        super().__init__(delegate)
        self._left = _MOST_WORK
        self._weights: dict[str, int] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        """One file, by its path without suffix.

        Raises:
            ConfigError: so many were asked for that composing them would take minutes.
        """
        result = super().load_config(config_path)
        if config_path not in self._weights:
            self._weights[config_path] = _FILE_WEIGHT + (0 if result is None else values_in(_plain(result.config)))
        self._left -= self._weights[config_path]
        if self._left < 0:
            raise ConfigError(
                f"configuration: the lists of defaults multiply: {config_path} and others are named too often",
                fix="name each file of a recipe once",
            )
        return result


def _plain(config: Container) -> object:
    return OmegaConf.to_container(config, resolve=False)


def register() -> None:
    """Make the scheme known to Hydra, and set the limit; again does nothing."""
    Plugins.instance().register(_PlainSource)
    setattr(config_loader_impl, "CachingConfigRepository", _BoundedRepository)  # noqa: B010  it exports no such name
