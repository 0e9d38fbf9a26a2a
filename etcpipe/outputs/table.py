"""Verdicts as aligned text for people."""

from collections.abc import Callable, Iterable
from typing import Any

from etcpipe.outputs import wall_clock_offset_ns
from etcpipe.outputs.columns import Columns, columns_of, split_times
from etcpipe.text_table import Table
from etcpipe.verdict import VerdictBatch

__all__ = ["FlowTable", "LiveTable", "Table", "endpoint", "milliseconds"]


class LiveTable:
    """Prints verdicts as they are made, a line a flow."""

    def __init__(self, echo: Callable[[str], object], clock_offset_ns: int | None = None):
        self._echo = echo
        self._offset_ns = wall_clock_offset_ns() if clock_offset_ns is None else clock_offset_ns
        self._table = Table(
            ["time", "proto", "initiator", "responder", "label", ">prob", ">packets", ">wait"],
            widths=[12, 5, 21, 21, 16, 5, 7, 9],
        )
        self._started = False

    def write(self, verdicts: VerdictBatch | Columns) -> None:
        """Print a batch of verdicts; the header before the first one."""
        if not isinstance(verdicts, Columns):
            verdicts = columns_of(verdicts, clock_offset_ns=self._offset_ns)
        if not len(verdicts):
            return
        lines = self._table.lines(_live_rows(verdicts), header=not self._started)
        self._started = True
        self._echo("\n".join(lines))


class FlowTable:
    """Prints whole flows, at most `limit` of them (None: all).

    Attributes:
        flows: how many were printed.
    """

    def __init__(self, echo: Callable[[str], object], limit: int | None):
        self.flows = 0
        self._echo = echo
        self._limit = limit
        self._table = Table(
            [
                "proto",
                "initiator",
                "responder",
                ">packets",
                ">bytes",
                "label",
                ">prob",
                ">packets used",
            ],
            widths=[5, 21, 21, 7, 9, 16, 5, 12],
        )

    @property
    def is_full(self) -> bool:
        """Whether no more flows will be printed."""
        return self.flows == self._limit

    def write(self, columns: Columns) -> None:
        """Print flows while there is room for them."""
        rows = _flow_rows(columns)
        if self._limit is not None:
            rows = rows[: self._limit - self.flows]
        if rows:
            self._echo("\n".join(self._table.lines(rows, header=not self.flows)))
            self.flows += len(rows)


def endpoint(address: str, port: int) -> str:
    """Return an address and port as one text, IPv6 in brackets (RFC 5952, 6)."""
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _endpoints(columns: Columns) -> tuple[list[str], list[str]]:
    return (
        list(map(endpoint, columns.src_ip, columns.src_port)),
        list(map(endpoint, columns.dest_ip, columns.dest_port)),
    )


def _live_rows(columns: Columns) -> list[tuple[str, ...]]:
    seconds, fractions = split_times(columns.timestamp)
    return [
        (f"{second[11:]}.{us // 1000:03d}", proto, source, destination, label, f"{p:.2f}", *rest)
        for second, us, proto, source, destination, label, p, *rest in zip(
            seconds,
            fractions,
            columns.proto,
            *_endpoints(columns),
            columns.label,
            columns.probability,
            map(str, columns.packets_used),
            map(milliseconds, columns.wait_us),
            strict=True,
        )
    ]


def _flow_rows(columns: Columns) -> list[tuple[str, ...]]:
    both: Iterable[tuple[Any, ...]] = zip(
        columns.pkts_toserver,
        columns.pkts_toclient,
        columns.bytes_toserver,
        columns.bytes_toclient,
        strict=True,
    )
    totals = [
        ("", "") if there is None else (f"{there + back:,}", f"{out + into:,}")
        for there, back, out, into in both
    ]
    return [
        (proto, source, destination, *total, label, f"{p:.2f}", str(used))
        for proto, source, destination, total, label, p, used in zip(
            columns.proto,
            *_endpoints(columns),
            totals,
            columns.label,
            columns.probability,
            columns.packets_used,
            strict=True,
        )
    ]


def milliseconds(us: float) -> str:
    """Return microseconds as a readable time."""
    return f"{us / 1000:.1f} ms" if us < 10_000_000 else f"{us / 1e6:.1f} s"
