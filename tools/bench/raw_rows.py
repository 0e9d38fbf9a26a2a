"""Keeps the first ten payload packets of each flow of a capture, 1,000 bytes each, in rows.

Prints flows, packets and bytes kept, and packets that came too late for their flow's row.
"""

import sys

from etcpipe.capture import Capture
from etcpipe.gpu.regroup import Regroup

FIRST_N, RAW_LEN = 10, 1000

if __name__ == "__main__":
    path, mask = sys.argv[1:]
    capture = Capture([path], first_n=FIRST_N)
    regroup = Regroup(FIRST_N, raw_len=RAW_LEN, mask=mask, parse=capture.parse)
    flows = kept = 0
    for batch in capture:
        ready = regroup.add(batch, capture.clock_ns())
        flows += len(ready)
        kept += int(ready.packets["raw_len"].sum())
    ready = regroup.flush()
    counters = regroup.counters
    print(
        flows + len(ready),
        counters["REGROUP_STORED"],
        kept + int(ready.packets["raw_len"].sum()),
        counters["REGROUP_LATE"],
    )
