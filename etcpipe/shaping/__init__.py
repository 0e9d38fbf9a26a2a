"""Traffic shaping against classifiers: what flows would look like, before features are made.

A shaping changes the packets of rows (etcpipe.batch.FlowBatch): sizes, times, number. All
views are computed from the changed packets, so stats, seq and bytes stay consistent.

    shaping = parse("pad=bucket:128,delay=exp:50ms")
    shaper = Shaper(shaping, first_n=10, wait_s=1.0, seed=1, mask="strict")
    rows = shaper(flows)          # as read at up to FIRST_N_MAX packets
    shaper.overhead()             # {"bytes": 0.06, "time": 0.69, "packets": 0.0}

White-box attacks, which look at the model's gradients, are out of scope.
"""

from etcpipe.shaping.shaper import Shaper
from etcpipe.shaping.spec import SUITE, Shaping, parse

__all__ = ["SUITE", "Shaper", "Shaping", "parse"]
