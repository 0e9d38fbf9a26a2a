"""Flow records as lines of JSON in the manner of Suricata's EVE, event_type "flow"."""

import json
from time import monotonic_ns, time_ns
from typing import BinaryIO

import numpy as np

from etcpipe.community_id import community_ids
from etcpipe.layout import END_REASONS
from etcpipe.outputs.columns import (
    endpoint_columns,
    protocol_names,
    split_times,
    states_of,
    times_of,
)

_TIME = "%s.%06d+0000"
_LINE = (
    f'{{"timestamp":"{_TIME}","event_type":"flow","flow_id":%d,"in_iface":%s,'
    '"src_ip":"%s","src_port":%d,"dest_ip":"%s","dest_port":%d,"proto":"%s",%s%s'
    '"flow":{"pkts_toserver":%d,"pkts_toclient":%d,"bytes_toserver":%d,"bytes_toclient":%d,'
    f'"start":"{_TIME}","end":"{_TIME}","age":%d,"state":"%s","reason":"%s"}},'
    '"etcpipe":{"counted":%d,"lost":%d}}'
)


def lines(records: np.ndarray, in_iface: str, clock_offset_ns: int, now_ns: int) -> list[str]:
    """Return one JSON object a flow, without line ends.

    Args:
        records: (flows,) FLOW_RECORD.
        in_iface: the device that the traffic was seen on.
        clock_offset_ns: nanoseconds from the packets' clock to Unix time.
        now_ns: Unix time of the report.
    """
    keys, states = records["key"], records["state"]
    ends = endpoint_columns(keys, states["initiator"])
    start, end = (times_of(states[name], clock_offset_ns) for name in ("first_ns", "last_ns"))
    now = times_of(np.full(len(records), now_ns, np.uint64), 0)
    packets, octets = states["packets"], states["bytes"]
    rows = zip(
        *split_times(now),
        states["flow_id"].tolist(),
        [json.dumps(in_iface)] * len(records),
        *(ends[name] for name in ("src_ip", "src_port", "dest_ip", "dest_port")),
        protocol_names(keys["protocol"]),
        [f'"vlan":[{zone}],' if zone else "" for zone in keys["zone"].tolist()],
        ["" if text is None else f'"community_id":"{text}",' for text in community_ids(keys)],
        *(counts[:, side].tolist() for counts in (packets, octets) for side in (0, 1)),
        *split_times(start),
        *split_times(end),
        ((states["last_ns"] - states["first_ns"]) // 1_000_000_000).tolist(),
        states_of(states),
        [END_REASONS[reason] for reason in records["reason"].tolist()],
        states["counted"].tolist(),
        states["lost"].tolist(),
        strict=True,
    )
    return [_LINE % row for row in rows]


class FlowLines:
    """Writes flow records into a file of lines, each write as a whole, for `tail -f`."""

    def __init__(self, file: BinaryIO, in_iface: str):
        self._file = file
        self._in_iface = in_iface

    def write(self, records: np.ndarray) -> None:
        """Append one line a record, (n,) FLOW_RECORD of the tap's clock."""
        now_ns = time_ns()
        offset_ns = now_ns - monotonic_ns()
        text = "\n".join(lines(records, self._in_iface, offset_ns, now_ns)) + "\n"
        self._file.write(text.encode())
        self._file.flush()

    def close(self) -> None:
        """Finish; there is nothing to add to what was written."""
