"""Flows by sort and scan: regrouping of packets to which no tracker gave an id, rank or direction.

For captures and for mirrors without metadata. A batch is sorted by the hash of the canonical keys
and by arrival. The first packet of each run of equal keys (whole keys are compared) looks its flow
up in a table that persists between batches, so each flow continues its count of packets. Which flow
a packet belongs to follows the rules of bpf/flows.h, as in the kernel and in captures:

    a tuple begins a new flow by its first packet, after a silence longer than its timeout, or
    by a SYN after its end (RST, or FIN of both sides)
    flow ids count from 1 in the order in which the flows began
    ranks count the packets that the count rule counts
    packets of a new flow are left out (TABLE_FULL) while `flows_max` flows are there

Flows that have been silent for longer than their timeout and SWEEP_SLACK_NS leave the table. add()
looks for them each time a SWEEP_ROUNDS-th of the idle timeout has passed. Fragments other than the
first have no ports and count as unparsed.

Once packets have ids and ranks, rows are made of them as in etcpipe.gpu.regroup.
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
        flows_max: the largest number of flows in the table.
        count_rule: a value of COUNT_RULES.
        establish_ns: silence after which a flow that consists of a SYN alone has ended.
        idle_ns: the same for all other open flows.
        tombstone_ns: how long an ended flow keeps its tuple.
    """

    flows_max: int = 1 << 20
    count_rule: int = COUNT_RULES["payload"]
    establish_ns: int = 5 * 10**9
    idle_ns: int = 120 * 10**9
    tombstone_ns: int = 30 * 10**9


class SortRegroup(Regroup):
    """As Regroup, for batches whose flow ids, ranks and directions are not set.

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
    """Tells when to look for silent flows."""

    def __init__(self, rules: FlowRules):
        self._interval_ns = rules.idle_ns // SWEEP_ROUNDS
        self._last_ns: int | None = None

    def is_due(self, clock_ns: int) -> bool:
        """Is it time to look, by the clock of the newest packet so far?"""
        if self._last_ns is None:
            self._last_ns = clock_ns
        if clock_ns - self._last_ns < self._interval_ns:
            return False
        self._last_ns = clock_ns
        return True
