"""What every output says of a verdict, as columns: computed once, written in many forms."""

import socket
from dataclasses import dataclass
from typing import Any

import numpy as np

from etcpipe.community_id import community_ids
from etcpipe.families import names_of
from etcpipe.layout import CONSTANTS, ENUMS, READY_REASONS
from etcpipe.outputs.memo import Memo
from etcpipe.verdict import EVENTS, SOURCES, UNKNOWN, VerdictBatch

VLAN_ID_MASK = 0x0FFF

# Names as Suricata's EVE writes them; other protocols go by their number.
PROTOCOLS = {
    1: "ICMP",
    2: "IGMP",
    4: "IPIP",
    6: "TCP",
    17: "UDP",
    41: "IPv6",
    47: "GRE",
    50: "ESP",
    51: "AH",
    58: "IPv6-ICMP",
    89: "OSPF",
    132: "SCTP",
}
_PROTOCOL_NAMES = [PROTOCOLS.get(number, str(number)) for number in range(256)]
_SECONDS = Memo(lambda second: str(np.datetime64(second, "s")))
_TEXTS4 = Memo(lambda address: socket.inet_ntop(socket.AF_INET, address[12:]))
_TEXTS6 = Memo(lambda address: socket.inet_ntop(socket.AF_INET6, address))
_CLOSED = ENUMS["flow_status"].index("FLOW_CLOSED")


@dataclass(frozen=True)
class Columns:
    """Verdicts as one list or array a field, all of the same length, one row a flow.

    The order is that of the CSV and Parquet columns; docs/events.md describes the fields.
    A field that is not known of a flow is None.

    Attributes:
        timestamp, start, end: (flows,) datetime64[us], UTC.
    """

    timestamp: np.ndarray
    event_type: list[str]
    flow_id: list[int]
    in_iface: list[str | None]
    src_ip: list[str]
    src_port: list[int]
    dest_ip: list[str]
    dest_port: list[int]
    proto: list[str]
    vlan: list[int | None]
    community_id: list[str | None]
    pkts_toserver: list[int | None]
    pkts_toclient: list[int | None]
    bytes_toserver: list[int | None]
    bytes_toclient: list[int | None]
    start: np.ndarray
    end: np.ndarray
    state: list[str | None]
    reason: list[str]
    label: list[str]
    probability: list[float]
    runner_up: list[str | None]
    family: list[str | None]
    stage: list[int]
    depth: list[int]
    packets_used: list[int]
    source: list[str]
    model: list[str]
    wait_us: list[int]
    queue_us: list[int]
    infer_us: list[float]
    lost: list[int]

    def __len__(self) -> int:
        return len(self.flow_id)


def columns_of(
    verdicts: VerdictBatch, in_iface: str | None = None, clock_offset_ns: int = 0
) -> Columns:
    """Return a batch of verdicts as columns.

    Args:
        verdicts: one row a flow.
        in_iface: the device that the traffic was seen on, None for a capture.
        clock_offset_ns: nanoseconds from the packets' clock to Unix time; 0 for a capture,
            wall_clock_offset_ns() for live traffic.
    """
    n, flows, records = len(verdicts), verdicts.flows, verdicts.records
    known = records["flow_id"] != 0
    start_ns, end_ns = _span(verdicts, known)
    # A flow that had nothing to judge has no time of judgement but its end.
    decided_ns = np.where(flows.ready_ns != 0, flows.ready_ns, end_ns)
    names = [*verdicts.classes, UNKNOWN]  # so that -1 is "unknown"
    optional = [*verdicts.classes, None]
    family_of = [*names_of(verdicts.classes).family_of, None]
    return Columns(
        timestamp=times_of(decided_ns, clock_offset_ns),
        event_type=[EVENTS[event] for event in verdicts.event.tolist()],
        flow_id=flows.flow_id.tolist(),
        in_iface=[in_iface] * n,
        **endpoint_columns(flows.key, flows.initiator),
        proto=protocol_names(flows.key["protocol"]),
        vlan=_vlan_ids(flows.vlan),
        community_id=community_ids(flows.key),
        **_totals(records, known),
        start=times_of(start_ns, clock_offset_ns),
        end=times_of(end_ns, clock_offset_ns),
        state=_states(records, known),
        reason=[READY_REASONS[reason] for reason in flows.reason.tolist()],
        label=[names[label] for label in verdicts.label.tolist()],
        probability=np.round(verdicts.probability.astype(np.float64), 4).tolist(),
        runner_up=[optional[label] for label in verdicts.runner_up.tolist()],
        family=[family_of[label] for label in verdicts.label.tolist()],
        stage=verdicts.stage.tolist(),
        depth=verdicts.depth.tolist(),
        packets_used=verdicts.packets_used.tolist(),
        source=[SOURCES[source] for source in verdicts.source.tolist()],
        model=[verdicts.models[stage] for stage in verdicts.stage.tolist()],
        wait_us=(verdicts.wait_ns // 1000).tolist(),
        queue_us=(verdicts.queue_ns // 1000).tolist(),
        infer_us=np.round(verdicts.infer_ns / 1000.0, 1).tolist(),
        lost=flows.lost.tolist(),
    )


def split_times(times: np.ndarray) -> tuple[list[str], list[int]]:
    """Return (flows,) datetime64[us] as ISO 8601 up to the second, and microseconds."""
    seconds, fractions = np.divmod(times.astype(np.int64), 1_000_000)
    return [_SECONDS[second] for second in seconds.tolist()], fractions.tolist()


def _span(verdicts: VerdictBatch, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last packet of each flow, of its row where the record is gone."""
    flows, records = verdicts.flows, verdicts.records
    times = flows.packets["timestamp_ns"]
    present = flows.packets["present"] != 0
    last = np.where(present, times, 0).max(axis=1, initial=0)
    first = np.where(present, times, np.iinfo(np.uint64).max).min(
        axis=1, initial=np.iinfo(np.uint64).max
    )
    seen = last != 0
    first = np.where(seen, first, flows.ready_ns)
    last = np.where(seen, last, flows.ready_ns)
    return np.where(known, records["first_ns"], first), np.where(known, records["last_ns"], last)


def times_of(ns: np.ndarray, offset_ns: int) -> np.ndarray:
    """Return times of the packets' clock as datetime64[us], UTC."""
    return ((ns.astype(np.int64) + offset_ns) // 1000).astype("datetime64[us]")


def endpoint_columns(key: np.ndarray, initiator: np.ndarray) -> dict[str, list[Any]]:
    """Return addresses and ports, the initiator as the source."""
    from_b = initiator != 0
    across = from_b[:, np.newaxis]
    a, b = key["a_addr"], key["b_addr"]
    four = (key["ip_version"] == 4).tolist()
    return {
        "src_ip": _addresses(np.where(across, b, a), four),
        "src_port": np.where(from_b, key["b_port"], key["a_port"]).tolist(),
        "dest_ip": _addresses(np.where(across, a, b), four),
        "dest_port": np.where(from_b, key["a_port"], key["b_port"]).tolist(),
    }


def _addresses(addresses: np.ndarray, four: list[bool]) -> list[str]:
    """Return (flows, 16) IPv4-mapped or IPv6 addresses as text (RFC 5952)."""
    raw = np.ascontiguousarray(addresses).view("V16").ravel().tolist()
    return [
        _TEXTS4[address] if is_four else _TEXTS6[address]
        for address, is_four in zip(raw, four, strict=True)
    ]


def _vlan_ids(vlan: np.ndarray) -> list[int | None]:
    ids: list[int | None] = (vlan & VLAN_ID_MASK).tolist()
    for row in np.flatnonzero(vlan == CONSTANTS["VLAN_NONE"]).tolist():
        ids[row] = None
    return ids


def _totals(records: np.ndarray, known: np.ndarray) -> dict[str, list[Any]]:
    """Return the flow's packets and bytes a direction; None where its record is gone."""
    packets, octets = records["packets"], records["bytes"]
    totals: dict[str, list[Any]] = {
        "pkts_toserver": packets[:, 0].tolist(),
        "pkts_toclient": packets[:, 1].tolist(),
        "bytes_toserver": octets[:, 0].tolist(),
        "bytes_toclient": octets[:, 1].tolist(),
    }
    for row in np.flatnonzero(~known).tolist():
        for column in totals.values():
            column[row] = None
    return totals


def _states(records: np.ndarray, known: np.ndarray) -> list[str | None]:
    return [
        state if is_known else None
        for state, is_known in zip(states_of(records), known.tolist(), strict=True)
    ]


def states_of(records: np.ndarray) -> list[str]:
    """Return Suricata's words: closed, established (both sides spoke), new."""
    both = (records["packets"] != 0).all(axis=1)
    state = np.where(records["status"] == _CLOSED, 2, both.astype(np.int64))
    names = ("new", "established", "closed")
    return [names[i] for i in state.tolist()]


def protocol_names(protocols: np.ndarray) -> list[str]:
    """Return the names of IANA protocol numbers as Suricata writes them."""
    return [_PROTOCOL_NAMES[number] for number in protocols.tolist()]
