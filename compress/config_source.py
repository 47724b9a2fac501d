"""How Hydra gets at a folder of the user's own configurations: through the one reader of YAML (`plain_yaml`).

Hydra reads files by itself, with a loader that builds other types than plain ones, follows aliases without end and
waits for FIFOs. Its sources of configurations are plug-ins, found by the scheme of a search path: `plain://` is ours.
"""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from compress.errors import ConfigError
from compress.plain_yaml import parse_yaml
from compress.reading import read_text

__all__ = ["SCHEME", "register"]

SCHEME = "plain"
_LARGEST_BYTES = 1 << 18
"""Bytes of one file of a recipe; the largest of this package has 2 KiB."""

_MOST_NODES = 5_000
"""Fifty times the largest file of a recipe; OmegaConf takes half a millisecond for each."""
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


def register() -> None:
    """Make the scheme known to Hydra; again does nothing."""
    Plugins.instance().register(_PlainSource)
