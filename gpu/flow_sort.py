"""Flows by sort and scan: regrouping for packets that no tracker gave an id, a rank or a direction.

For captures and for mirrors without metadata. A batch is sorted by the hash of its canonical
keys and by arrival; heads of runs, found by comparing whole keys, look their flow up in a
table that lasts over batches, and each flow goes on counting where it stopped. Which flow a
packet belongs to follows bpf/flows.h, as in the kernel and in captures:

    a tuple begins a new flow by its first packet, after a silence longer than its timeout, or
    by a SYN after its end (RST, or FIN of both sides)
    flow ids count from 1 in the order in which the flows began
    ranks count the packets that the count rule counts
    packets of a new flow are left out (TABLE_FULL) while `flows_max` flows are there

Flows that fell silent leave the table SWEEP_SLACK_NS later, at the end of a call to add() that
is SWEEP_ROUNDS'th of an idle timeout after the last time. Later fragments have no ports and
count as not to be parsed.

With the ids, rows follow from the packets below rank N as in etcpipe.gpu.regroup.
Source: the sort and scan of ETCpipe's GPU front end.
"""

from dataclasses import dataclass
from importlib import import_module

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.gpu.regroup import Regroup
from etcpipe.layout import COUNT_RULES

SWEEP_ROUNDS = 16
SWEEP_SLACK_NS = 1_000_000_000

COUNTERS = ("FLOWS_CREATED", "FLOWS_RESTARTED", "PACKETS_TABLE_FULL")
BACKENDS = {"reference": "flow_sort_cpu", "gpu": "flow_sort_gpu"}


@dataclass(frozen=True)
class FlowRules:
    """When flows begin and which packets count; times in nanoseconds.

    Attributes:
        flows_max: flows in the table at most.
        count_rule: number in COUNT_RULES.
        establish_ns: silence after which a flow ended that was a SYN alone.
        idle_ns: the same for all other open flows.
        tombstone_ns: how long an ended flow keeps its tuple.
    """

    flows_max: int = 1 << 20
    count_rule: int = COUNT_RULES["payload"]
    establish_ns: int = 5 * 10**9
    idle_ns: int = 120 * 10**9
    tombstone_ns: int = 30 * 10**9


class SortRegroup(Regroup):
    """As Regroup, for batches whose flow ids, ranks and directions mean nothing yet.

    Args:
        rules: when flows begin and which packets count.
        device: "gpu", or "reference" for the definition in Python.
        **settings: as of Regroup.

    Raises:
        UsageError: a setting is out of range.
        UnsupportedError: there is no GPU that can be used.
    """

    def __init__(
        self, first_n: int, raw_len: int = 0, *, rules: FlowRules | None = None, **settings
    ):
        device = settings.pop("device", "gpu")
        super().__init__(first_n, raw_len, **settings, device="reference")
        module = import_module(f"etcpipe.gpu.{BACKENDS[device]}")
        self._backend = module.Backend(self.settings, rules or FlowRules())

    def add(self, batch: PacketBatch, now_ns: int | None = None) -> FlowBatch:
        """Take packets and return the flows that are complete."""
        return self._backend.add(batch, now_ns)


class SweepClock:
    """Says when to look for flows that fell silent."""

    def __init__(self, rules: FlowRules):
        self._interval_ns = rules.idle_ns // SWEEP_ROUNDS
        self._last_ns: int | None = None

    def is_due(self, clock_ns: int) -> bool:
        """Is it time, by the newest packet so far?"""
        if self._last_ns is None:
            self._last_ns = clock_ns
        if clock_ns - self._last_ns < self._interval_ns:
            return False
        self._last_ns = clock_ns
        return True
