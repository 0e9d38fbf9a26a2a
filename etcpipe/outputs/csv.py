"""Verdicts as comma-separated values (RFC 4180, UTF-8, line feeds)."""

import csv
import io
from dataclasses import fields
from typing import BinaryIO

import numpy as np

from etcpipe.outputs.columns import Columns, split_times

HEADER = tuple(field.name for field in fields(Columns))


class Csv:
    """Writes a header, then one row a flow; what is not known is an empty field."""

    def __init__(self, file: BinaryIO):
        self._file = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(HEADER)

    def write(self, columns: Columns) -> None:
        """Append one row a flow."""
        text = io.StringIO()
        rows = zip(*(_values(getattr(columns, name)) for name in HEADER), strict=True)
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._file.write(text.getvalue())
        self._file.flush()

    def close(self) -> None:
        """Finish, and leave the file to whoever opened it."""
        self._file.detach()


def _values(column: np.ndarray | list) -> list:
    """Return a column as csv writes it; times as in the verdict lines, but with a Z."""
    if isinstance(column, np.ndarray):
        seconds, fractions = split_times(column)
        return [f"{text}.{us:06d}Z" for text, us in zip(seconds, fractions, strict=True)]
    return column
