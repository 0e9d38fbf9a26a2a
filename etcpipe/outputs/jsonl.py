"""Verdict lines into a file: .jsonl, .json or .ndjson."""

from typing import BinaryIO

from etcpipe.outputs import eve
from etcpipe.outputs.columns import Columns


class JsonLines:
    """Writes one JSON object a line; each write reaches the file at once, for `tail -f`."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def write(self, columns: Columns) -> None:
        """Append one line a flow."""
        if len(columns):
            self._file.write(("\n".join(eve.lines(columns)) + "\n").encode())
            self._file.flush()

    def close(self) -> None:
        """Finish; there is nothing to add to what was written."""
