"""Where verdicts go: verdict lines, CSV, Parquet, and tables for people.

with open_output("flows.jsonl") as output:
    for verdicts in etcpipe.classify("office.pcap"):
        output.write(columns_of(verdicts))
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, cast

from etcpipe.errors import OutputError, UsageError
from etcpipe.outputs.columns import Columns, columns_of

__all__ = ["Columns", "Output", "Sink", "columns_of", "open_output", "wall_clock_offset_ns"]

# Modules and their classes by extension: loaded when used, pyarrow takes 100 ms.
_FORMATS = {
    ".jsonl": ("jsonl", "JsonLines"),
    ".json": ("jsonl", "JsonLines"),
    ".ndjson": ("jsonl", "JsonLines"),
    ".csv": ("csv", "Csv"),
    ".parquet": ("parquet", "Parquet"),
}


class Sink(Protocol):
    """Takes verdicts as columns: a file, a table, standard output."""

    def write(self, columns: Columns) -> None: ...


class Format(Sink, Protocol):
    """Writes columns into a file that somebody else opens and closes."""

    def __init__(self, file: BinaryIO): ...

    def close(self) -> None: ...


class Output:
    """A file of verdicts, in one of the formats; a context manager.

    Raises:
        OutputError: the file cannot be opened, written or closed (from any method).
    """

    def __init__(self, path: str | os.PathLike[str], make: type[Format]):
        self.path = Path(path)
        with self._reported():
            self._file = open(self.path, "wb")
            try:
                self._format = make(self._file)
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OutputError):
            self._abandon()
        else:
            self.close()

    def write(self, columns: Columns) -> None:
        """Write one row a flow."""
        with self._reported():
            self._format.write(columns)

    def close(self) -> None:
        """Write what is left, with the format's footer, and close the file."""
        with self._reported():
            try:
                self._format.close()
            finally:
                self._file.close()

    def _abandon(self) -> None:
        """Close after a failed write without hiding the first error behind a second one."""
        try:
            self.close()
        except OutputError:
            pass

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"cannot write {self.path}: {reason}") from error


def open_output(path: str | os.PathLike[str]) -> Output:
    """Return a writer in the format that the path's extension names.

    Raises:
        UsageError: the extension is unknown, or what the format needs is not installed.
        OutputError: the file cannot be opened.
    """
    return Output(path, format_of(path))


def format_of(path: str | os.PathLike[str]) -> type[Format]:
    """Return the format that the path's extension names.

    Raises:
        UsageError: there is none.
    """
    extension = Path(path).suffix.lower()
    if extension not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise UsageError(f"{path}: the extension names the format, one of {known}")
    module, name = _FORMATS[extension]
    return cast(type[Format], getattr(import_module(f"etcpipe.outputs.{module}"), name))


def wall_clock_offset_ns() -> int:
    """Return nanoseconds from the kernel's monotonic clock to Unix time, as of now."""
    return time.time_ns() - time.monotonic_ns()
