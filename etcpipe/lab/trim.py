"""Shortens a capture to the beginning of each flow."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from etcpipe.errors import LabError

# libpcap's file format (draft-ietf-opsawg-pcap), as tcpdump writes it on this machine:
# magic, version, zone, accuracy, snap length, link type; seconds, fraction, length, length.
FILE_HEADER = struct.Struct("=IHHiIII")
PACKET_HEADER = struct.Struct("=IIII")
MAGICS = (0xA1B2C3D4, 0xA1B23C4D)
ETHERNET = 1

TCP, UDP = 6, 17
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

Flow = tuple[bytes, ...]


@dataclass(frozen=True)
class Trimmed:
    """Packets kept and seen, and TCP and UDP flows among them."""

    packets: int
    seen: int
    flows: int


def trim(source: Path, target: Path, first: int) -> Trimmed:
    """Copy the first packets of each flow, and every FIN and RST, to target.

    Args:
        source: pcap of Ethernet frames in this machine's byte order.
        first: packets of a flow, both directions together; 0 keeps all.

    Raises:
        LabError: source is no such file, or target cannot be written.
    """
    counts: dict[Flow, int] = {}
    packets = seen = flows = 0
    try:
        with source.open("rb") as reader, target.open("wb") as writer:
            writer.write(read_file_header(reader))
            for header, frame in records(reader):
                seen += 1
                flow, flags = flow_of(frame)
                if flags & (SYN | ACK) == SYN:
                    counts[flow] = 0  # the same ports again: another flow
                    flows += 1
                elif flow not in counts and flow[0] == bytes([UDP]):
                    flows += 1
                counts[flow] = counts.get(flow, 0) + 1
                if not first or counts[flow] <= first or flags & (FIN | RST):
                    writer.write(header + frame)
                    packets += 1
    except OSError as error:
        raise LabError(f"cannot write {target}: {error.strerror}") from error
    return Trimmed(packets, seen, flows)


def flow_of(frame: bytes) -> tuple[Flow, int]:
    """Return what identifies a frame's flow, equal in both directions, and its TCP flags.

    Frames without ports count as one flow per pair of addresses, or per Ethernet type.
    """
    kind = frame[12:14]
    if kind == b"\x08\x00":
        start = 14 + (frame[14] & 0x0F) * 4
        protocol, ends = frame[23:24], [frame[26:30], frame[30:34]]
        is_fragment = bool(int.from_bytes(frame[20:22], "big") & 0x1FFF)
    elif kind == b"\x86\xdd":
        start, protocol, ends = 54, frame[20:21], [frame[22:38], frame[38:54]]
        is_fragment = False
    else:
        return (kind,), 0
    if protocol[0] not in (TCP, UDP) or is_fragment:
        return (protocol, *sorted(ends)), 0
    ends = [ends[0] + frame[start : start + 2], ends[1] + frame[start + 2 : start + 4]]
    flags = frame[start + 13] if protocol[0] == TCP and len(frame) > start + 13 else 0
    return (protocol, *sorted(ends)), flags


def read_file_header(reader: BinaryIO) -> bytes:
    """Return a capture's file header.

    Raises:
        LabError: it is not pcap of Ethernet in this machine's byte order.
    """
    header = reader.read(FILE_HEADER.size)
    if len(header) < FILE_HEADER.size:
        raise LabError("tcpdump captured nothing")
    magic, *_, link_type = FILE_HEADER.unpack(header)
    if magic not in MAGICS or link_type != ETHERNET:
        raise LabError("tcpdump wrote an unexpected format")
    return header


def records(reader: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield (packet header, frame) of each packet; a torn last one is left out."""
    while len(header := reader.read(PACKET_HEADER.size)) == PACKET_HEADER.size:
        captured = PACKET_HEADER.unpack(header)[2]
        if len(frame := reader.read(captured)) == captured:
            yield header, frame
