"""Aligned rows of text, for people."""

from collections.abc import Iterable, Sequence


class Table:
    """Formats rows under a header; a column widens as needed and never narrows again.

    Args:
        headers: one a column; a leading ">" aligns the column to the right.
        widths: least width of each column, for rows that are printed as they come.
    """

    def __init__(self, headers: Sequence[str], widths: Sequence[int] = ()):
        self._headers = [header.lstrip(">") for header in headers]
        self._right = [header.startswith(">") for header in headers]
        least = widths or [0] * len(headers)
        self._widths = [max(len(h), w) for h, w in zip(self._headers, least, strict=True)]

    def lines(self, rows: Iterable[Sequence[str]], header: bool = True) -> list[str]:
        """Return a line a row, the header first unless told otherwise."""
        rows = list(rows)
        for row in rows:
            self._widths = [max(w, len(cell)) for w, cell in zip(self._widths, row, strict=True)]
        return [self._line(row) for row in ([self._headers] if header else []) + rows]

    def _line(self, row: Sequence[str]) -> str:
        cells = zip(row, self._widths, self._right, strict=True)
        return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in cells).rstrip()
