"""The demo: real programs in the lab, a tap on the router between them, verdicts as they come."""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from statistics import median

import numpy as np

from etcpipe.families import names_of
from etcpipe.lab import Lab, Session, label_of
from etcpipe.live import attach as live
from etcpipe.outputs.eve import endpoints
from etcpipe.verdict import EVENT_EARLY, UNKNOWN, VerdictBatch


@dataclass
class ClassScore:
    """What became of the flows of one kind of traffic.

    Attributes:
        family: flows that were said to be of their kind's family, and no more.
    """

    flows: int = 0
    right: int = 0
    family: int = 0
    wrong: int = 0
    unknown: int = 0
    to_verdict_ns: list[int] = field(default_factory=list)

    def add(self, truth: str, label: str, members: Sequence[str], to_verdict_ns: int) -> None:
        """Count one flow; members are the classes of the label, if it is a family."""
        self.flows += 1
        self.right += label == truth
        self.family += truth in members
        self.unknown += label == UNKNOWN
        self.wrong += label not in (truth, UNKNOWN) and truth not in members
        self.to_verdict_ns.append(to_verdict_ns)

    @property
    def median_ms(self) -> float:
        """Median time from a flow's first counted packet to its verdict."""
        return median(self.to_verdict_ns) / 1e6 if self.to_verdict_ns else 0.0


@dataclass
class Report:
    """What the demo saw."""

    scores: dict[str, ClassScore]
    counters: dict[str, int]
    lost: dict[str, int]
    mode: str
    loader: str
    sessions: list[Session]

    @property
    def total(self) -> ClassScore:
        """All classes together."""
        scores = self.scores.values()
        return ClassScore(
            flows=sum(score.flows for score in scores),
            right=sum(score.right for score in scores),
            family=sum(score.family for score in scores),
            wrong=sum(score.wrong for score in scores),
            unknown=sum(score.unknown for score in scores),
            to_verdict_ns=[ns for score in scores for ns in score.to_verdict_ns],
        )


def run(
    *,
    sessions: int,
    seed: int,
    kinds: Sequence[str] | None = None,
    model: str | PathLike[str] | None = None,
    on_start: Callable[[live.Live, Lab], None] = lambda tap, lab: None,
    on_verdicts: Callable[[VerdictBatch], None] = lambda verdicts: None,
) -> Report:
    """Run the lab with a tap on its router and compare verdicts with what was really run.

    Args:
        sessions: how many times each kind of traffic is made.
        seed: makes sizes, pauses and counts repeatable.
        kinds: labels of the kinds to run; None: all whose programs are installed.
        model: a model file; None takes the cascade that ships.
        on_start: called once when the tap is up.
        on_verdicts: called with each batch of verdicts, live.

    Raises:
        LabError: the lab cannot be made here. DataplaneError and others: as live.attach().
    """
    with (
        Lab(kinds=kinds, seed=seed) as lab,
        live.attach(lab.device, netns=lab.router, model=model) as tap,
    ):
        on_start(tap, lab)
        traffic = _Traffic(lab, sessions, tap)
        scores: dict[str, ClassScore] = defaultdict(ClassScore)
        for verdicts in tap:
            _score(verdicts, lab, scores)
            on_verdicts(verdicts)
        return Report(
            scores=dict(sorted(scores.items())),
            counters=tap.counters(),
            lost=tap.lost(),
            mode=tap.mode,
            loader=tap.loader,
            sessions=traffic.finished(),
        )


class _Traffic:
    """Runs the lab's sessions beside the tap, and stops the tap once all is said."""

    def __init__(self, lab: Lab, sessions: int, tap: live.Live):
        self._done: list[Session] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(lab, sessions, tap), daemon=True)
        self._thread.start()

    def _run(self, lab: Lab, sessions: int, tap: live.Live) -> None:
        try:
            self._done.extend(lab.run(sessions=sessions))
        except BaseException as error:
            self._error = error
        finally:
            # Flows that are shorter than N packets are judged after the waiting time.
            threading.Event().wait(tap.model.wait_s + 0.5)
            tap.stop()

    def finished(self) -> list[Session]:
        self._thread.join()
        if self._error:
            raise self._error
        return self._done


def _score(verdicts: VerdictBatch, lab: Lab, scores: dict[str, ClassScore]) -> None:
    to_verdict = verdicts.wait_ns + verdicts.queue_ns + verdicts.infer_ns
    families = names_of(verdicts.classes).families
    for i in np.flatnonzero(verdicts.event != EVENT_EARLY).tolist():
        truth = label_of(lab.truth, *endpoints(verdicts, i))
        if truth is not None:
            said = verdicts.name(i)
            scores[truth].add(truth, said, families.get(said, ()), int(to_verdict[i]))
