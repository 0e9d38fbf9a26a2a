"""Hand-made records of flows that ended."""

import numpy as np
from verdicts import key_of

from etcpipe.layout import END_REASONS, FLOW_RECORD


def flow_record(
    flow_id: int = 1,
    packets: tuple[int, int] = (5, 7),
    octets: tuple[int, int] = (500, 7000),
    reason: str = "idle",
    version: int = 4,
) -> np.ndarray:
    """Return (1,) FLOW_RECORD of a TCP flow whose initiator is end b."""
    record = np.zeros(1, FLOW_RECORD)
    ends = ("192.0.2.1", "198.51.100.7") if version == 4 else ("2001:db8::1", "2001:db8::2")
    record["key"] = key_of((ends[0], 443), (ends[1], 40000), 6)
    record["reason"] = END_REASONS.index(reason)
    state = record["state"]
    state["flow_id"], state["initiator"] = flow_id, 1
    state["packets"], state["bytes"] = packets, octets
    state["tcp_flags"] = (0x1B, 0x13)
    state["first_ns"], state["last_ns"] = 1_000_000_000, 3_500_000_000
    return record
