"""A cache of measurements in a file of JSON lines, so that a search can be resumed.

Several processes may append to a file, one line at a time; each reads it when it starts. Values are
valid for one machine and one version of etcpipe: others are not read.
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
        path: the file, created by the first put(); None: values are kept in memory only.
        data: identifies what was measured on, e.g. by a digest of the flows.

    Raises:
        OutputError: the file exists and cannot be read.
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
        """Return the value of a key, None if there is none."""
        return self._values.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Store a value, a dictionary that JSON can represent.

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
                continue  # a line cut short by a full disk or a crash
