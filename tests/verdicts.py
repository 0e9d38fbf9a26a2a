"""Hand-made verdicts for tests of what comes after the model."""

import ipaddress
from dataclasses import dataclass

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.layout import CONSTANTS, FLOW_KEY, FLOW_STATE, PACKET_FIELDS, READY_REASONS
from etcpipe.verdict import EVENTS, SOURCES, VerdictBatch

CLASSES = ("ssh", "web")
SECOND = 1_000_000_000
NOON = 1_700_000_000 * SECOND  # 2023-11-14T22:13:20Z


@dataclass
class Flow:
    """One flow and its verdict; the initiator is end a unless told otherwise."""

    a: tuple[str, int] = ("192.0.2.1", 40000)
    b: tuple[str, int] = ("198.51.100.7", 443)
    protocol: int = 6
    initiator: int = 0
    vlan: int = CONSTANTS["VLAN_NONE"]
    packets: tuple[int, int] = (5, 7)
    bytes: tuple[int, int] = (500, 7000)
    first_ns: int = NOON
    last_ns: int = NOON + 2 * SECOND
    ready_ns: int = NOON + SECOND
    closed: bool = False
    known: bool = True
    label: int = 1
    probability: float = 0.875
    runner_up: int = 0
    stage: int = 0
    depth: int = 10
    event: str = "verdict"
    packets_used: int = 10
    source: str = "model"
    reason: str = "depth"
    wait_ns: int = SECOND
    queue_ns: int = 1_500
    infer_ns: int = 12_340
    lost: int = 0


def verdicts(*flows: Flow, classes: tuple[str, ...] = CLASSES, packets: int = 0) -> VerdictBatch:
    """Return flows as a VerdictBatch, with empty rows of so many packets."""

    def column(name: str, dtype: type) -> np.ndarray:
        return np.array([getattr(flow, name) for flow in flows], dtype)

    n = len(flows)
    batch = FlowBatch(
        flow_id=np.arange(1, n + 1, dtype=np.uint64),
        key=_keys(flows),
        initiator=column("initiator", np.uint8),
        vlan=column("vlan", np.uint16),
        ifindex=np.zeros(n, np.uint32),
        packets=np.zeros((n, packets), PACKET_FIELDS),
        raw=np.zeros((n, packets, 0), np.uint8),
        lost=column("lost", np.uint16),
        reason=np.array([READY_REASONS.index(flow.reason) for flow in flows], np.uint8),
        ready_ns=column("ready_ns", np.uint64),
    )
    return VerdictBatch(
        flows=batch,
        records=_records(flows),
        classes=classes,
        label=column("label", np.int16),
        probability=column("probability", np.float32),
        runner_up=column("runner_up", np.int16),
        stage=column("stage", np.uint8),
        depth=column("depth", np.uint16),
        event=np.array([EVENTS.index(flow.event) for flow in flows], np.uint8),
        packets_used=column("packets_used", np.uint16),
        source=np.array([SOURCES.index(flow.source) for flow in flows], np.uint8),
        wait_ns=column("wait_ns", np.uint64),
        queue_ns=column("queue_ns", np.uint64),
        infer_ns=column("infer_ns", np.uint64),
        models=("test@0123456789ab", "slow@ba9876543210"),
    )


def key_of(a: tuple[str, int], b: tuple[str, int], protocol: int) -> np.ndarray:
    """Return a five-tuple as (1,) FLOW_KEY, its ends in the order given."""
    key = np.zeros(1, FLOW_KEY)
    for end, (text, port) in (("a", a), ("b", b)):
        address = ipaddress.ip_address(text)
        packed = (
            address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
        )
        key[f"{end}_addr"] = np.frombuffer(packed, np.uint8)
        key[f"{end}_port"] = port
        key["ip_version"] = address.version
    key["protocol"] = protocol
    return key


def _keys(flows: tuple[Flow, ...]) -> np.ndarray:
    keys = [key_of(flow.a, flow.b, flow.protocol) for flow in flows]
    return np.concatenate(keys) if keys else np.zeros(0, FLOW_KEY)


def _records(flows: tuple[Flow, ...]) -> np.ndarray:
    records = np.zeros(len(flows), FLOW_STATE)
    for i, flow in enumerate(flows):
        if flow.known:
            records[i]["flow_id"] = i + 1
            records[i]["first_ns"], records[i]["last_ns"] = flow.first_ns, flow.last_ns
            records[i]["packets"], records[i]["bytes"] = flow.packets, flow.bytes
            records[i]["initiator"], records[i]["status"] = flow.initiator, flow.closed
    return records
