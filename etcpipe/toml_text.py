"""Files in TOML that a user wrote: read strictly, with messages that say what was meant."""

import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from etcpipe.errors import UsageError


def read(path: str | Path) -> str:
    """Return a file's text.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UsageError(f"{path}: {reason}") from error


def parse(text: str, name: str) -> dict[str, Any]:
    """Return what a text says; `name` stands in messages.

    Raises:
        UsageError: it is not TOML.
    """
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return toml.loads(text)
    except toml.TOMLDecodeError as error:
        raise UsageError(f"{name}: {error}") from error


def check_keys(keys: Iterable[str], known: Sequence[str], place: str) -> None:
    """Raise UsageError at the first key that is not known."""
    for key in keys:
        if key not in known:
            raise UsageError(f"{place}: unknown key {key!r}{suggestion(key, known)}")


def suggestion(word: str, known: Sequence[str]) -> str:
    """Return what was perhaps meant, or all that is possible, as the end of a message."""
    close = get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (possible: {', '.join(known)})"
