"""What naming families gives, as `etcpipe train` and `eval` print it."""

from typing import Any


def as_text(found: dict[str, Any] | None) -> list[str]:
    """Return what naming families gives, as text; nothing where there are none."""
    if not found:
        return []
    right = "" if found["right"] is None else f", {found['right']:.1%} of them right"
    line = (
        f"no class is sure of {found['refused']:.1%} of flows; a family is named of "
        f"{found['told']:.1%} (from {found['threshold']:.3f} on){right}"
    )
    strange = found["strange_wrong"]
    return [line if strange is None else f"{line}; wrongly of {strange:.1%} of strange flows"]
