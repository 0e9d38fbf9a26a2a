"""IPFIX messages (RFC 7011) of flows that ended, each with the class it was found to be.

A flow is one biflow record (RFC 5103): the initiator's direction, and the other one in fields
of the reverse enterprise. The class is an applicationId (RFC 6759) of engine 6, "user-defined";
an options record gives each id its name. Ids are valid within one run. Its probability is a
confidenceLevel (RFC 5477), the one registered element for how sure an estimate is.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from etcpipe.layout import END_REASONS
from etcpipe.outputs.labels import Ended

VERSION = 10
DOMAIN = 1
TEMPLATE_SET, OPTIONS_SET = 2, 3
IPV4, IPV6, NAMES = 256, 257, 258
REVERSE = 29305  # RFC 5103, 6.1
ENGINE_USER_DEFINED = 6  # RFC 6759, 4.1
MESSAGE_BYTES = 1400  # with UDP, IPv6 and a tunnel or two it stays below 1500
NAME_BYTES = 32
ETHERNET_BYTES = 14

# flowEndReason (RFC 5102, 5.11.3) of each of ours.
_REASONS = {"idle": 1, "establish": 1, "active": 2, "closed": 3, "source": 4}
REASON_OF = np.array([_REASONS[name] for name in END_REASONS], np.uint8)


class Element(NamedTuple):
    """A field of a record: its name here, IANA's number, its type, and the enterprise."""

    name: str
    number: int
    dtype: str
    enterprise: int = 0


_HEAD = (
    Element("start_ms", 152, ">u8"),
    Element("end_ms", 153, ">u8"),
)
_TAIL = (
    Element("source_port", 7, ">u2"),
    Element("destination_port", 11, ">u2"),
    Element("protocol", 4, "u1"),
    Element("end_reason", 136, "u1"),
    Element("tcp_flags", 6, ">u2"),
    Element("reverse_tcp_flags", 6, ">u2", REVERSE),
    Element("packets", 2, ">u8"),
    Element("octets", 1, ">u8"),
    Element("frame_octets", 352, ">u8"),
    Element("reverse_packets", 2, ">u8", REVERSE),
    Element("reverse_octets", 1, ">u8", REVERSE),
    Element("reverse_frame_octets", 352, ">u8", REVERSE),
    Element("flow_id", 148, ">u8"),
    Element("application", 95, ">u4"),
    Element("probability", 338, ">f8"),
)
TEMPLATES = {
    IPV4: (*_HEAD, Element("source", 8, "V4"), Element("destination", 12, "V4"), *_TAIL),
    IPV6: (*_HEAD, Element("source", 27, "V16"), Element("destination", 28, "V16"), *_TAIL),
}
_NAME_ELEMENTS = (Element("application", 95, ">u4"), Element("name", 96, f"S{NAME_BYTES}"))


class Writer:
    """Makes messages and counts their records, as the sequence number wants it."""

    def __init__(self) -> None:
        self._sequence = 0

    def templates(self, names: Sequence[str], now_s: float) -> Iterator[bytes]:
        """Yield messages that describe the records, and name the classes."""
        described = b"".join(_template(number, fields) for number, fields in TEMPLATES.items())
        options = _specifier(_NAME_ELEMENTS)
        header = struct.pack(">HHH", NAMES, len(_NAME_ELEMENTS), 1)  # the first one is the scope
        yield self._message(
            _set(TEMPLATE_SET, described) + _set(OPTIONS_SET, header + options), 0, now_s
        )
        rows = np.zeros(len(names), _dtype(_NAME_ELEMENTS))
        rows["application"] = application_ids(np.arange(len(names)))
        rows["name"] = [name.encode()[:NAME_BYTES] for name in names]
        yield from self._data(NAMES, rows, now_s)

    def flows(self, ended: Ended, clock_offset_ns: int, now_s: float) -> Iterator[bytes]:
        """Yield messages of flows."""
        four = ended.records["key"]["ip_version"] == 4
        for template, chosen in ((IPV4, four), (IPV6, ~four)):
            rows = _rows(template, ended.records[chosen], clock_offset_ns)
            rows["application"] = application_ids(ended.name[chosen])
            rows["probability"] = ended.probability[chosen]
            yield from self._data(template, rows, now_s)

    def _data(self, template: int, rows: np.ndarray, now_s: float) -> Iterator[bytes]:
        at_once = (MESSAGE_BYTES - 20) // rows.dtype.itemsize
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            yield self._message(_set(template, part.tobytes()), len(part), now_s)

    def _message(self, sets: bytes, records: int, now_s: float) -> bytes:
        header = struct.pack(
            ">HHIII", VERSION, 16 + len(sets), int(now_s), self._sequence & 0xFFFFFFFF, DOMAIN
        )
        self._sequence += records
        return header + sets


def application_ids(names: np.ndarray) -> np.ndarray:
    """Return the applicationId of classes by their place among the names."""
    return names.astype(np.uint32) | np.uint32(ENGINE_USER_DEFINED << 24)


def _rows(template: int, records: np.ndarray, clock_offset_ns: int) -> np.ndarray:
    key, state = records["key"], records["state"]
    rows = np.zeros(len(records), _dtype(TEMPLATES[template]))
    from_b = state["initiator"] != 0
    across = from_b[:, np.newaxis]
    address_type, first = ("V4", 12) if template == IPV4 else ("V16", 0)
    ends = (("source", "a", "b"), ("destination", "b", "a"))
    for name, near, far in ends:
        address = np.where(across, key[f"{far}_addr"], key[f"{near}_addr"])[:, first:]
        rows[name] = np.ascontiguousarray(address).view(address_type).ravel()
        rows[f"{name}_port"] = np.where(from_b, key[f"{far}_port"], key[f"{near}_port"])
    for name, field in (("start_ms", "first_ns"), ("end_ms", "last_ns")):
        rows[name] = (state[field].astype(np.int64) + clock_offset_ns) // 1_000_000
    rows["protocol"], rows["end_reason"] = key["protocol"], REASON_OF[records["reason"]]
    rows["flow_id"] = state["flow_id"]
    for side, prefix in enumerate(("", "reverse_")):
        packets, octets = state["packets"][:, side], state["bytes"][:, side]
        rows[f"{prefix}tcp_flags"] = state["tcp_flags"][:, side]
        rows[f"{prefix}packets"], rows[f"{prefix}frame_octets"] = packets, octets
        rows[f"{prefix}octets"] = octets - packets.astype(np.uint64) * np.uint64(ETHERNET_BYTES)
    return rows


def _dtype(elements: Sequence[Element]) -> np.dtype:
    return np.dtype([(element.name, element.dtype) for element in elements])


def _template(number: int, elements: Sequence[Element]) -> bytes:
    return struct.pack(">HH", number, len(elements)) + _specifier(elements)


def _specifier(elements: Sequence[Element]) -> bytes:
    """Return the field specifiers of a template (RFC 7011, 3.2)."""
    text = b""
    for element in elements:
        size = np.dtype(element.dtype).itemsize
        if element.enterprise:
            text += struct.pack(">HHI", element.number | 0x8000, size, element.enterprise)
        else:
            text += struct.pack(">HH", element.number, size)
    return text


def _set(number: int, content: bytes) -> bytes:
    return struct.pack(">HH", number, 4 + len(content)) + content
