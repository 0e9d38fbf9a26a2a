"""The two tables that move through the pipeline: packets in, flows out of regrouping."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import numpy as np

from etcpipe import _native
from etcpipe.layout import FLOW_KEY, PACKET_FIELDS

LINKTYPE_ETHERNET = 1


@dataclass(frozen=True)
class PacketBatch:
    """The first packets of flows in arrival order, as a structure of arrays.

    The frames stay where they arrived (the UMEM of the AF_XDP socket, or a capture
    reader's arena) and are valid until the source is asked for its next batch.

    Attributes:
        memory: (bytes,) uint8, the area that holds all frames.
        offset: (packets,) uint64, where each frame begins in memory.
        captured: (packets,) uint32, bytes of the frame that are there.
        wire_len: (packets,) uint32, bytes of the frame on the wire.
        timestamp_ns: (packets,) uint64, the packet's own clock.
        flow_id: (packets,) uint64, unique for the life of the source, never 0.
        rank: (packets,) uint16, 0 .. N-1 among the packets of the flow that count.
        direction: (packets,) uint8, 0 from the flow's initiator, 1 towards it.
        vlan: (packets,) uint16, outer VLAN tag (TCI), or VLAN_NONE.
        segment_len: (packets,) uint16, payload bytes a segment of a GSO super-packet, else 0.
        ifindex: (packets,) uint32, interface that saw the packet, 0 from a capture.
        link_type: LINKTYPE of all frames (pcap's numbers; live traffic is Ethernet).
        lost: packets that did not reach this batch since the last one, by reason.
    """

    memory: np.ndarray
    offset: np.ndarray
    captured: np.ndarray
    wire_len: np.ndarray
    timestamp_ns: np.ndarray
    flow_id: np.ndarray
    rank: np.ndarray
    direction: np.ndarray
    vlan: np.ndarray
    segment_len: np.ndarray
    ifindex: np.ndarray
    link_type: int = LINKTYPE_ETHERNET
    lost: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offset)

    def frame(self, i: int) -> np.ndarray:
        """Return the captured bytes of packet i, (captured,) uint8, not copied."""
        start = int(self.offset[i])
        return self.memory[start : start + int(self.captured[i])]

    def select(self, packets: np.ndarray) -> "PacketBatch":
        """Return some packets, (packets,) bool; their frames are not copied."""
        columns = {name: getattr(self, name)[packets] for name in _PACKET_COLUMNS}
        return replace(self, **columns)

    def heads(self, rows: np.ndarray) -> np.ndarray:
        """Copy the first bytes of each frame into rows, zeros beyond what was captured.

        Args:
            rows: (at least packets, length) uint8, C-contiguous.

        Returns:
            Those rows that were written, (packets, length).

        Raises:
            ValueError: rows is not that, or a frame is not within memory.
        """
        return rows[: _native.copy_heads(self.memory, self.offset, self.captured, rows)]


_PACKET_COLUMNS = [one.name for one in fields(PacketBatch)][1:-2]  # all but memory and the rest


@dataclass(frozen=True)
class FlowBatch:
    """Flows whose model input is complete, one row a flow.

    A row keeps its packets by rank. A rank that is missing (the flow was shorter, or the
    packet was lost on the way) is a row of zeros with present = 0.

    Attributes:
        flow_id: (flows,) uint64.
        key: (flows,) FLOW_KEY, canonical.
        initiator: (flows,) uint8, 1 if end b of the key opened the flow.
        vlan: (flows,) uint16, of the first packet, or VLAN_NONE.
        ifindex: (flows,) uint32.
        packets: (flows, N) PACKET_FIELDS, by rank.
        raw: (flows, N, L) uint8, masked bytes from the IP header on, zero beyond
            packets["raw_len"]; L is 0 unless a model asks for bytes of the host.
        lost: (flows,) uint16, ranks below the highest one seen that never arrived.
        reason: (flows,) uint8, enum ready_reason.
        ready_ns: (flows,) uint64, packet clock at which the row was complete.
    """

    flow_id: np.ndarray
    key: np.ndarray
    initiator: np.ndarray
    vlan: np.ndarray
    ifindex: np.ndarray
    packets: np.ndarray
    raw: np.ndarray
    lost: np.ndarray
    reason: np.ndarray
    ready_ns: np.ndarray

    def __len__(self) -> int:
        return len(self.flow_id)

    def select(self, rows: slice | np.ndarray) -> "FlowBatch":
        """Return some rows; a slice copies nothing."""
        columns = vars(self).items()
        if isinstance(rows, slice):
            return FlowBatch(**{name: column[rows] for name, column in columns})
        chosen = np.flatnonzero(rows) if rows.dtype == bool else rows
        # take() copies a row of several fields in one piece, and is five times as fast for it
        return FlowBatch(**{name: column.take(chosen, axis=0) for name, column in columns})


def rows_of(
    flows: int, first_n: int, raw_len: int, fill: Callable[..., np.ndarray] = np.zeros
) -> FlowBatch:
    """Return room for rows of first_n packets with raw_len bytes each, zeros if not np.empty."""
    return FlowBatch(
        flow_id=fill(flows, np.uint64),
        key=fill(flows, FLOW_KEY),
        initiator=fill(flows, np.uint8),
        vlan=fill(flows, np.uint16),
        ifindex=fill(flows, np.uint32),
        packets=fill((flows, first_n), PACKET_FIELDS),
        raw=fill((flows, first_n, raw_len), np.uint8),
        lost=fill(flows, np.uint16),
        reason=fill(flows, np.uint8),
        ready_ns=fill(flows, np.uint64),
    )


def concatenate(batches: Sequence[FlowBatch]) -> FlowBatch:
    """Return the rows of one or more batches of the same N and L in one."""
    if len(batches) == 1:
        return batches[0]
    columns = {name: [getattr(batch, name) for batch in batches] for name in vars(batches[0])}
    # with the dtype named: by default the keys' network byte order would be lost
    return FlowBatch(
        **{name: np.concatenate(parts, dtype=parts[0].dtype) for name, parts in columns.items()}
    )


class FlowRecords(Protocol):
    """What a source knows of its flows: the kernel's table live, the reader's offline."""

    def records(self, flows: FlowBatch) -> np.ndarray:
        """Return (flows,) FLOW_STATE as of now; flow_id 0 where a flow is no longer known."""
        ...
