"""A shadow model: judges the flows that the active model answered, in the background.

It has a thread of its own. Flows that come while its queue is full are skipped and counted, so a
shadow of any size costs the active model only processor time.
"""

import logging
import queue
import threading
from collections import Counter
from typing import Any

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.errors import EtcpipeError
from etcpipe.model import Model
from etcpipe.verdict import UNKNOWN, VerdictBatch

log = logging.getLogger(__name__)

QUEUE_BATCHES = 64
PAIRS_SHOWN = 10


class Shadow:
    """Compares a model's answers with verdicts; close() ends it.

    Args:
        model: must pass model_life.check_rows_fit().
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._waiting: queue.Queue[tuple[FlowBatch, list[str]] | None] = queue.Queue(QUEUE_BATCHES)
        self._lock = threading.Lock()
        self._pairs: Counter[tuple[str, str]] = Counter()  # (active, shadow)
        self._skipped = 0
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="etcpipe-shadow", daemon=True)
        self._thread.start()

    def ask(self, verdicts: VerdictBatch) -> None:
        """Compare with verdicts in the background; returns at once."""
        if len(verdicts):
            said = [verdicts.name(i) for i in range(len(verdicts))]
            self.compare(verdicts.flows, said)

    def compare(self, flows: FlowBatch, said: list[str]) -> None:
        """Compare with labels of flows, by name, in the background; returns at once."""
        try:
            self._waiting.put_nowait((flows, said))
        except queue.Full:
            self._skip(len(said))

    def report(self) -> dict[str, Any]:
        """Return the comparison so far; may be called from any thread.

        {model, engine, flows: compared, agreed, agreement: share or None, skipped: not
        compared, differences: [{active, shadow, flows}] most frequent first, failure}
        """
        with self._lock:
            pairs, skipped, failure = dict(self._pairs), self._skipped, self._failure
        flows = sum(pairs.values())
        agreed = sum(n for (ours, theirs), n in pairs.items() if ours == theirs)
        others = Counter({pair: n for pair, n in pairs.items() if pair[0] != pair[1]})
        return {
            "model": str(self.model),
            "engine": self.model.engine,
            "flows": flows,
            "agreed": agreed,
            "agreement": agreed / flows if flows else None,
            "skipped": skipped,
            "differences": [
                {"active": ours, "shadow": theirs, "flows": n}
                for (ours, theirs), n in others.most_common(PAIRS_SHOWN)
            ],
            "failure": failure,
        }

    def close(self) -> None:
        """Finish the queue, and end."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (one := self._waiting.get()) is not None:
            flows, said = one
            try:
                names = self._names(flows)
            except EtcpipeError as error:
                log.warning("shadow %s: %s", self.model, error)
                with self._lock:
                    self._failure = str(error)
                self._skip(len(said))
                continue
            with self._lock:
                self._pairs.update(zip(said, names, strict=True))

    def _names(self, flows: FlowBatch) -> list[str]:
        labels: np.ndarray = self.model.answers(flows).label
        return [self.model.labels[i] if i >= 0 else UNKNOWN for i in labels.tolist()]

    def _skip(self, flows: int) -> None:
        with self._lock:
            self._skipped += flows


def report_lines(report: dict[str, Any]) -> list[str]:
    """Return a Shadow's report as text."""
    share = report["agreement"]
    agreement = "nothing compared yet" if share is None else f"{100 * share:.1f} % the same"
    lines = [f"shadow {report['model']}: {agreement} of {report['flows']:,} flows"]
    if report["skipped"]:
        lines[0] += f", {report['skipped']:,} not compared"
    if report["failure"]:
        lines.append(f"  failed: {report['failure']}")
    lines += [
        f"  {one['flows']:,} {one['active']}, by the shadow {one['shadow']}"
        for one in report["differences"]
    ]
    return lines
