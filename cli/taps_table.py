"""Taps as a table for people: what `etcpipe show` prints."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from etcpipe.kernel import netns
from etcpipe.text_table import Table

HEADERS = ("device", "netns", "mode", "loader", ">consumer", ">first", ">seen", ">mirrored")


def lines(taps: Iterable[Mapping], device: str | None = None) -> list[str]:
    """Return a line a tap under a header, or the one that says that there is none.

    Args:
        taps: as etcpipe.kernel.tap.show() returns them.
        device: that was asked for.
    """
    rows = [_row(tap) for tap in taps]
    if not rows:
        return [f"etcpipe is attached nowhere{f' on {device}' if device else ''}"]
    return Table([*HEADERS, ">flows"]).lines(rows)


def _row(tap: Mapping) -> Sequence[str]:
    counters = tap["counters"]
    return (
        tap["device"],
        _namespace(tap["netns"]),
        tap["mode"],
        tap["loader"],
        str(tap["pid"] or "-"),
        str(tap["first_n"]),
        f"{counters.get('PACKETS_SEEN', 0):,}",
        f"{counters.get('PACKETS_REDIRECTED', 0):,}",
        f"{tap['flows']:,}",
    )


def _namespace(inode: int) -> str:
    """Return the namespace's name as ip knows it; "-" for the current one."""
    if inode == netns.inode():
        return "-"
    path = netns.find(inode)
    return Path(path).name if path and Path(path).parent == netns.NAMED else str(inode)
