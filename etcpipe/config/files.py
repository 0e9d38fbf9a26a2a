"""Configuration files: which there are, in which order, and what they set.

`etcpipe.toml` of a folder comes first, then `conf.d/*.toml` by name; later ones win. A section
is a verb (`[attach]`, `[model.bench]`) or a device (`[device.eth0]`, which wins over
`[attach]` for that device), and its keys are the verb's long options without the dashes.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etcpipe.config import FOLDER
from etcpipe.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEVICE = "device"
DEVICE_VERB = "attach"  # whose options the section of a device has


@dataclass(frozen=True)
class Setting:
    """One key with its value.

    Attributes:
        section: words of the verb, ("model", "bench"), or ("device", name of the device).
        name: of the option, as on the command line without the dashes.
        value: as TOML has it: str, int, float, bool or a list.
        origin: the file, or the environment variable.
    """

    section: tuple[str, ...]
    name: str
    value: Any
    origin: str

    @property
    def key(self) -> str:
        """The key as a reader of the file knows it, with its section."""
        return ".".join((*self.section, self.name))


def read(folder: Path = FOLDER) -> list[Setting]:
    """Return what the files of a folder set, in their order: of equal keys the last one holds.

    Raises:
        ConfigError: a file is no TOML or cannot be read; or the folder is not there, unless
            it is the usual one.
    """
    if not folder.is_dir():
        if folder == FOLDER:
            return []
        raise ConfigError(f"{folder}: no such folder of configuration files")
    return [setting for path in files_of(folder) for setting in _read_file(path)]


def files_of(folder: Path) -> list[Path]:
    """Return the configuration files of a folder, in the order in which they are read."""
    main = folder / "etcpipe.toml"
    return [*([main] if main.is_file() else []), *sorted((folder / "conf.d").glob("*.toml"))]


def for_verb(
    settings: Iterable[Setting], section: tuple[str, ...], device: str | None = None
) -> dict[str, Setting]:
    """Return what holds for a verb by the name of its option.

    Args:
        settings: as read() returns them.
        section: words of the verb.
        device: for attach: the device whose section wins over the verb's.
    """
    chosen = {setting.name: setting for setting in settings if setting.section == section}
    if device is not None and section == (DEVICE_VERB,):
        own = (setting for setting in settings if setting.section == (DEVICE, device))
        chosen |= {setting.name: setting for setting in own}
    return chosen


def _read_file(path: Path) -> Iterator[Setting]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    yield from _flatten(table, (), str(path))


def _flatten(table: dict[str, Any], section: tuple[str, ...], origin: str) -> Iterator[Setting]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, (*section, name), origin)
        else:
            yield Setting(section, name, value, origin)
