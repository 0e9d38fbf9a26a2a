"""Files that a running attach writes: appended to, rotated by others or by the clock.

A file that was moved away or removed is opened anew under its name within a second, so
logrotate needs no signal. A path with % is a pattern of strftime, in UTC: one file an hour is
`flows-%Y%m%d%H.parquet`.
"""

import builtins
import os
import stat
from contextlib import suppress
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from time import time
from typing import Any

from etcpipe.errors import UsageError
from etcpipe.outputs.queued import Drop, reason_of

MODE = 0o640


def path_at(pattern: str, seconds: float) -> Path:
    """Return the file that a pattern means at a Unix time."""
    if "%" not in pattern:
        return Path(pattern)
    return Path(datetime.fromtimestamp(seconds, timezone.utc).strftime(pattern))


class Lines:
    """Appends text, each write as a whole: after a full disk no line is cut.

    Args:
        pattern: of the path.
        make: a format of etcpipe/outputs; its header is written into an empty file only.
    """

    def __init__(self, pattern: str, make: Any):
        self.on_drop: Drop = _nothing
        self._pattern = pattern
        self._make = make
        self._path: Path | None = None
        self._fd = -1

    def write(self, events: Any) -> None:
        """Append events."""
        self.open()
        text = BytesIO()
        formatted = self._make(text)
        if os.fstat(self._fd).st_size:
            text.seek(0)
            text.truncate()
        formatted.write(events)
        self._append(text.getvalue())

    def tick(self) -> None:
        """Let go of a file that has another name by now, or whose hour is over."""
        if self._fd >= 0 and not self._is_current():
            self.reopen()

    def reopen(self) -> None:
        """Let go of the file; the next write opens it under its name."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        """Let go of the file."""
        self.reopen()

    def open(self) -> None:
        """Open the file if it is not open."""
        if self._fd >= 0:
            return
        self._path = path_at(self._pattern, time())
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, MODE)

    def _is_current(self) -> bool:
        if path_at(self._pattern, time()) != self._path:
            return False
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except OSError:
            return False

    def _append(self, text: bytes) -> None:
        status = os.fstat(self._fd)
        rest = memoryview(text)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            if stat.S_ISREG(status.st_mode) and len(rest) < len(text):
                os.ftruncate(self._fd, status.st_size)
            raise


class ParquetFiles:
    """Collects rows into Parquet files; each appears under its name once it is whole.

    Until then it is NAME.part. Where a pattern names a file that is there already, of an
    earlier run within the hour, a number is added: it is never overwritten.
    """

    def __init__(self, pattern: str):
        from etcpipe.outputs.parquet import Parquet

        self.on_drop: Drop = _nothing
        self._format = Parquet
        self._pattern = pattern
        self._path: Path | None = None
        self._file: Any = None
        self._writer: Any = None
        self._rows = 0

    def write(self, columns: Any) -> None:
        """Take rows; they are written in large groups."""
        try:
            self.open()
            self._writer.write(columns)
            self._rows += len(columns)
        except OSError as error:
            self._give_up(error)
            raise

    def tick(self) -> None:
        """Finish a file whose hour is over."""
        if self._file and path_at(self._pattern, time()) != self._path:
            self.reopen()

    def reopen(self) -> None:
        """Finish the file; the next write begins another one."""
        if not self._file:
            return
        try:
            self._writer.close()
            self._file.close()
            os.replace(self._part, self._free())
        except OSError as error:
            self._give_up(error)
            raise
        self._file, self._rows = None, 0

    def close(self) -> None:
        """Finish the file."""
        self.reopen()

    @property
    def _part(self) -> Path:
        assert self._path
        return self._path.with_name(self._path.name + ".part")

    def open(self) -> None:
        """Begin a file if there is none."""
        if self._file:
            return
        self._path = path_at(self._pattern, time())
        self._file = builtins.open(self._part, "wb")
        try:
            self._writer = self._format(self._file)
        except UsageError:  # pyarrow is not installed
            self._give_up()
            raise

    def _free(self) -> Path:
        assert self._path
        path, n = self._path, 0
        while "%" in self._pattern and path.exists():
            n += 1
            path = self._path.with_stem(f"{self._path.stem}-{n}")
        return path

    def _give_up(self, error: OSError | None = None) -> None:
        """A file that was cut has no footer and cannot be read: free the disk of it."""
        if self._rows and error:
            self.on_drop(self._rows, reason_of(error))
        self._rows = 0
        if self._file:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._part.unlink()
        self._file = None


def _nothing(n: int, reason: str) -> None:
    """Nobody counts."""
