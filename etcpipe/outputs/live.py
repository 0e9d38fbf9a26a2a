"""All that a running attach writes and tells, in one place."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from etcpipe.outputs import Sink, columns_of, wall_clock_offset_ns
from etcpipe.outputs.flows import FlowLines
from etcpipe.outputs.labels import Labels
from etcpipe.outputs.targets import Targets, file_output
from etcpipe.outputs.watch import Watch
from etcpipe.verdict import VerdictBatch

if TYPE_CHECKING:
    from etcpipe.live.tap import Live


class LiveOutputs:
    """The outputs of a tap, its flow lines and its report; a context manager inside the tap's.

    Args:
        tap: entered.
        namespace: name or path of its network namespace, None for the current one.
        targets: where verdicts go, entered before the tap; none keeps it waiting.
        flows: file for lines of flows that end, "-" for standard output, None for neither.
        sinks: written directly, in the caller's thread.

    Attributes:
        watch: what monitors are told.

    Raises:
        OutputError: the file for flows cannot be opened.
    """

    def __init__(
        self,
        tap: "Live",
        namespace: str | None = None,
        targets: Targets | None = None,
        flows: str | None = None,
        sinks: Sequence[Sink] = (),
    ):
        self._tap = tap
        self._sinks = sinks
        self.watch = Watch(tap, namespace)
        self._targets = targets or Targets([])
        self.watch.outputs = self._targets.states
        self._take: list[Callable[[np.ndarray], None]] = [self.watch.tally.add_ended]
        self._finishes = False
        self._labels = Labels() if self._targets.takes_flows else None
        if self._labels:
            self._report_to(self._write_ended)
        if flows == "-":
            self._report_to(FlowLines(sys.stdout.buffer, tap.device).write)
        elif flows:
            lines = file_output(flows, lambda file: FlowLines(file, tap.device))
            self._report_to(self._targets.add(lines).write)

    def __enter__(self) -> "LiveOutputs":
        self.watch.__enter__()
        self._targets.reports = lambda: [self.watch.report()]
        self._tap.report_flows(self._take_flows)
        talkers = self.watch.talkers
        self._tap.watch_table(talkers.take, talkers.end_round)
        return self

    def __exit__(self, *error: Any) -> None:
        self._targets.reports = list  # the tap's counters can no longer be asked for
        self.watch.__exit__(*error)

    @property
    def dropped(self) -> dict[str, int]:
        """Events that each output let go, of those that did."""
        return {
            state["output"]: sum(state["dropped"].values())
            for state in self._targets.states()
            if state["dropped"]
        }

    def write(self, verdicts: VerdictBatch) -> None:
        """Hand verdicts on."""
        self.watch.tally.add(verdicts)
        if self._labels:
            self._labels.add(verdicts)
        if self._sinks or self._targets.takes_verdicts:
            columns = columns_of(verdicts, self._tap.device, wall_clock_offset_ns())
            for sink in (*self._sinks, self._targets):
                sink.write(columns)

    def reopen(self) -> None:
        """Open files and connections anew, as after a rotation."""
        self._targets.reopen()

    def finish(self) -> None:
        """Report the flows that are left in the table, where flows are reported."""
        if self._finishes:
            self._targets.be_patient()
            self._tap.finish_flows()

    def _report_to(self, take: Callable[[np.ndarray], None]) -> None:
        self._take.append(take)
        self._finishes = True

    def _write_ended(self, records: np.ndarray) -> None:
        assert self._labels
        self._targets.write_flows(self._labels.of(records))

    def _take_flows(self, records: np.ndarray) -> None:
        for take in self._take:
            take(records)
