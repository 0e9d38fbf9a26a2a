"""Taps as a table for people: what `etcpipe show` prints."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from etcpipe.kernel import first_packets, netns
from etcpipe.text_table import Table

HEADERS = ("device", "netns", "mode", "loader", ">consumer", ">first", ">seen")


def lines(taps: Sequence[Mapping], device: str | None = None) -> list[str]:
    """Return a line a tap under a header, or the one that says that there is none.

    Args:
        taps: as etcpipe.kernel.status.show() returns them.
        device: that was asked for.
    """
    if not taps:
        return [f"etcpipe is {f'not attached to {device}' if device else 'attached nowhere'}"]
    way = first_packets.participle(*(tap["settings"]["capture"] for tap in taps))
    return Table([*HEADERS, f">{way}", ">flows"]).lines(map(_row, taps))


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
        f"{first_packets.taken(counters, tap['settings']['capture']):,}",
        f"{tap['flows']:,}",
    )


def _namespace(inode: int) -> str:
    """Return the namespace's name as ip knows it; "-" for the current one."""
    if inode == netns.inode():
        return "-"
    path = netns.find(inode)
    return Path(path).name if path and Path(path).parent == netns.NAMED else str(inode)
