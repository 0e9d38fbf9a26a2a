"""What it all came to: flows by class, packets by reason."""

from collections.abc import Mapping

import numpy as np

from etcpipe.kernel import first_packets
from etcpipe.outputs.table import Table, milliseconds
from etcpipe.verdict import UNKNOWN, VerdictBatch

# Times are counted in bins that are 2 % wide, so a run of any length takes 17 kB a class.
BINS_AN_E_FOLD = 50
N_BINS = 64 * BINS_AN_E_FOLD


class Summary:
    """Adds up verdicts by class, in constant memory."""

    def __init__(self) -> None:
        self._classes: tuple[str, ...] = ()
        self._rows = np.zeros(0, np.int64)  # row of each label, the last one of label -1
        self._flows = np.zeros(0, np.int64)
        self._packets = np.zeros(0, np.int64)
        self._bytes = np.zeros(0, np.int64)
        self._probability = np.zeros(0)
        self._times = np.zeros((0, N_BINS), np.int64)

    def add(self, verdicts: VerdictBatch) -> None:
        """Count a batch of verdicts, not the early ones; all batches are of the same classes."""
        verdicts = verdicts.final()
        if not self._classes:
            self._start(verdicts.classes)
        label, records = self._rows[verdicts.label], verdicts.records
        np.add.at(self._flows, label, 1)
        np.add.at(self._packets, label, records["packets"].sum(axis=1, dtype=np.int64))
        np.add.at(self._bytes, label, records["bytes"].sum(axis=1).astype(np.int64))
        np.add.at(self._probability, label, verdicts.probability)
        to_verdict_ns = verdicts.wait_ns + verdicts.queue_ns + verdicts.infer_ns
        bins = (np.log1p(to_verdict_ns.astype(np.float64)) * BINS_AN_E_FOLD).astype(np.int64)
        np.add.at(self._times, (label, bins), 1)

    @property
    def flows(self) -> int:
        """Flows in all."""
        return int(self._flows.sum())

    def lines(self, live: bool) -> list[str]:
        """Return a table of classes, the largest first.

        Args:
            live: with the median time to a verdict; else with packets and bytes, which
                are only final offline.
        """
        headers = ["class", ">flows", ">share", ">mean prob"]
        headers += [">median time to verdict"] if live else [">packets", ">bytes"]
        order = [i for i in np.argsort(-self._flows, kind="stable").tolist() if self._flows[i]]
        return Table(headers).lines(self._row(i, live) for i in order)

    def _start(self, classes: tuple[str, ...]) -> None:
        # A model may have learned a class "unknown": it and the label -1 are one row.
        self._classes = tuple(dict.fromkeys((*classes, UNKNOWN)))
        self._rows = np.array([self._classes.index(name) for name in (*classes, UNKNOWN)])
        n = len(self._classes)
        self._flows, self._packets, self._bytes = np.zeros((3, n), np.int64)
        self._probability = np.zeros(n)
        self._times = np.zeros((n, N_BINS), np.int64)

    def _row(self, i: int, live: bool) -> list[str]:
        flows = int(self._flows[i])
        row = [self._classes[i], f"{flows:,}", f"{100 * flows / self.flows:.1f} %"]
        row.append(f"{self._probability[i] / flows:.2f}")
        if live:
            return [*row, milliseconds(self._median_ns(i) / 1000)]
        return [*row, f"{self._packets[i]:,}", f"{self._bytes[i]:,}"]

    def _median_ns(self, i: int) -> float:
        below = np.cumsum(self._times[i])
        middle = int(np.searchsorted(below, (below[-1] + 1) // 2))
        return float(np.expm1((middle + 0.5) / BINS_AN_E_FOLD))


def counter_lines(counters: Mapping[str, int]) -> list[str]:
    """Return counters that are not zero, by their names in words, the first one always."""
    shown = [(words(name), f"{n:,}") for i, (name, n) in enumerate(counters.items()) if n or not i]
    return Table(["packets by reason", ">count"]).lines(shown)


def loss_line(counters: Mapping[str, int], lost: Mapping[str, int], capture: str = "afxdp") -> str:
    """Return in one line what a tap saw, captured that way and lost, by reason."""
    settled = counters.get("PACKETS_SETTLED", 0)
    taken, done = first_packets.taken(counters, capture), first_packets.participle(capture)
    losses = ", ".join(f"{words(name)} {n:,}" for name, n in lost.items()) or "none"
    return (
        f"packets: {counters['PACKETS_SEEN']:,} seen, {counters['PACKETS_FIRST_N']:,} among the "
        f"first of their flow, {taken:,} {done}"
        f"{f', {settled:,} settled' if settled else ''}; lost: {losses}"
    )


def words(counter: str) -> str:
    """Return a counter's name in words: PACKETS_NOT_IP is "not IP"."""
    name = counter.removeprefix("PACKETS_").lower().replace("_", " ")
    return name.replace("not ip", "not IP").replace("first n", "among the first N")
