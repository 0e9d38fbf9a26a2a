"""What was measured already, in a file of JSON lines: a search that is resumed goes on.

Several processes may append to one file, a line at once; each reads what was there when it
began. Values hold for one machine and one version: those of others are not read.
"""

import fcntl
import json
import platform
from os import PathLike
from pathlib import Path
from typing import Any

from etcpipe import __version__
from etcpipe.errors import OutputError


class Cache:
    """Values by key.

    Args:
        path: the file; it is made by the first put(). None keeps values in memory only.
        data: names what values were measured on, e.g. a digest of the flows.

    Raises:
        OutputError: the file is there and cannot be read.
    """

    def __init__(self, path: str | PathLike[str] | None = None, data: str = "") -> None:
        self._path = Path(path) if path is not None else None
        self._of = f"{data} {platform.node()} {platform.machine()} {__version__}"
        self._values: dict[str, dict[str, Any]] = {}
        if self._path is not None and self._path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was kept, None if nothing was."""
        return self._values.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep a value: JSON-able, by names.

        Raises:
            OutputError: the file cannot be written.
        """
        self._values[key] = value
        if self._path is None:
            return
        line = json.dumps({"of": self._of, "key": key, "value": value}) + "\n"
        try:
            with self._path.open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(line)
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}") from error

    def _read(self) -> None:
        assert self._path is not None
        try:
            lines = self._path.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OutputError(f"cannot read the measured points in {self._path}") from error
        for line in lines:
            try:
                entry = json.loads(line)
                if entry["of"] == self._of:
                    self._values[entry["key"]] = entry["value"]
            except (ValueError, KeyError, TypeError):
                continue  # cut when the disk was full, or the machine stopped
