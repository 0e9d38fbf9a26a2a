"""Drawings as PNG files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from etcpipe import runtime
from etcpipe.errors import OutputError, UnsupportedError

Subject = TypeVar("Subject")
INCHES = (7.0, 5.0)
DOTS_AN_INCH = 120


def save(
    folder: Path, subject: Subject, drawings: Mapping[str, Callable[[Any, Subject], None]]
) -> list[Path]:
    """Write NAME.png for each drawing into a folder, made if need be; return their paths.

    Args:
        drawings: each puts a subject onto Matplotlib axes.

    Raises:
        UnsupportedError: matplotlib is not installed.
        OutputError: the folder cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UnsupportedError(f"plots need matplotlib: {runtime.remedy_for('plot')}") from error
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, drawing in drawings.items():
            figure = Figure(figsize=INCHES, layout="constrained")
            drawing(figure.subplots(), subject)
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1], dpi=DOTS_AN_INCH)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    return written
