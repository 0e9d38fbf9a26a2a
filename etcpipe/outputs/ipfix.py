"""Flows that ended, with their class, to an IPFIX collector.

ipfix://collector:4739        UDP; templates are sent again each minute
ipfix+tcp://collector:4739    TCP
"""

from collections import OrderedDict
from dataclasses import replace
from time import monotonic, monotonic_ns, time, time_ns

import numpy as np

from etcpipe.layout import END_REASONS
from etcpipe.outputs.ipfix_message import Writer
from etcpipe.outputs.labels import Ended
from etcpipe.outputs.queued import Drop
from etcpipe.outputs.sockets import Datagrams, Stream

PORT = 4739
TEMPLATES_EVERY_S = 60.0
ACTIVE = END_REASONS.index("active")
# Long flows whose interim records are remembered, so that each packet is told once.
INTERIM_MAX = 65536


class Ipfix:
    """Sends flows as they end, and long ones each active timeout.

    Args:
        address: host and port.
        is_tcp: over TCP instead of UDP.
    """

    def __init__(self, address: tuple[str, int], is_tcp: bool = False):
        self.on_drop: Drop = lambda n, reason: None
        self._connection = Stream(address) if is_tcp else Datagrams(address)
        self._every_s = float("inf") if is_tcp else TEMPLATES_EVERY_S
        self._deltas = Deltas()
        self._waiting: list[bytes] = []  # messages of the flows that are being written
        self._batch: Ended | None = None
        self._writer = Writer()
        self._templates_due = 0.0
        self._told_names = 0

    def write(self, ended: Ended) -> None:
        """Send records; those that were sent are not sent again."""
        if self._batch is not ended:
            told = replace(ended, records=self._deltas.since_told(ended.records))
            self._waiting = list(self._writer.flows(told, time_ns() - monotonic_ns(), time()))
            self._batch = ended
        try:
            self._send_templates(ended)
            while self._waiting:
                self._connection.send(self._waiting[0])
                self._waiting.pop(0)
        except OSError:
            self._templates_due = 0.0
            raise
        self._batch = None

    def tick(self) -> None:
        """Nothing is due without flows: templates go before them."""

    def reopen(self) -> None:
        """Connect anew before the next record."""
        self._connection.close()
        self._templates_due = 0.0

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _send_templates(self, ended: Ended) -> None:
        now = monotonic()
        if now < self._templates_due and len(ended.names) == self._told_names:
            return
        for message in self._writer.templates(ended.names, time()):
            self._connection.send(message)
        self._templates_due, self._told_names = now + self._every_s, len(ended.names)


class Deltas:
    """Turns totals of long flows into what came since their last record."""

    def __init__(self) -> None:
        self._told: OrderedDict[int, np.ndarray] = OrderedDict()

    def since_told(self, records: np.ndarray) -> np.ndarray:
        """Return (flows,) FLOW_RECORD whose counts and start are those not told yet."""
        records = records.copy()
        state = records["state"]
        interim = records["reason"] == ACTIVE
        for row in np.flatnonzero(interim | self._is_told(state["flow_id"])).tolist():
            total = state[row].copy()
            before = self._told.pop(int(total["flow_id"]), None)
            if before is not None:
                state[row]["packets"] -= before["packets"]
                state[row]["bytes"] -= before["bytes"]
                state[row]["first_ns"] = before["last_ns"]
            if interim[row]:
                self._told[int(total["flow_id"])] = total
        while len(self._told) > INTERIM_MAX:
            self._told.popitem(last=False)
        return records

    def _is_told(self, flow_ids: np.ndarray) -> np.ndarray:
        return np.array([flow_id in self._told for flow_id in flow_ids.tolist()], bool)
