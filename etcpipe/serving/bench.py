"""The whole of `etcpipe serve-bench`: every system and every load, in one run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from etcpipe.cascade.serving import CascadeModel, Serving
from etcpipe.cascade.walk import EARLY_S
from etcpipe.evaluation import evaluate
from etcpipe.model import Model
from etcpipe.serving import arrivals, baselines
from etcpipe.serving.arrivals import Schedule
from etcpipe.serving.baselines import System
from etcpipe.serving.pace import Pace
from etcpipe.serving.recorded import Recorded
from etcpipe.serving.replay import Outcome, full_speed, replay, sustained

LOADS = (0.2, 0.5, 0.8, 1.0, 1.2, 1.5)
PROCESSES = {"poisson": arrivals.poisson, "bursty": arrivals.bursty}
# Rate of new flows with recorded gaps: there is hardly any load.
RECORDED_RATE = 100.0
# Limit for the wait for packets when load is measured.
LONGEST_WAIT_S = 0.1
CAPACITY_S, CAPACITY_REPEATS = 0.3, 3
FULL_SPEED_FLOWS, FULL_SPEED_RATE = 20_000, 1e5

OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        loads: of the cascade's capacity.
        seconds: for which flows arrive at each load.
    """

    loads: Sequence[float] = LOADS
    seconds: float = 1.0
    seed: int = 1


class Offered(NamedTuple):
    """How new flows come.

    Attributes:
        process: of arrivals, a name of PROCESSES, or "recorded".
        load: of the cascade's capacity.
        rate: new flows a second.
    """

    process: str
    load: float
    rate: float


@dataclass(frozen=True)
class Run:
    """One system under one kind of arrivals.

    Attributes:
        load: of the cascade's capacity, measured just before, since machines change speed.
        rate: new flows a second.
        said: (flows,) int, the class; -1 "unknown".
        wait_s, queue_s, infer_s: (flows,) the parts of an answer's latency: the wait for
            packets as recorded, the wait for a batch and its turn, and inference.
        f1_by_stage: macro-F1 of the flows that each stage answered; nan for none.
        by_stage: share of flows that each stage answered.
        pace: median time of a fixed piece of work, relative to that while the capacity for this
            load was measured.
        is_calm: (flows,) bool, the flows that were served while it did not take much longer.
    """

    system: str
    arrivals: str
    load: float
    rate: float
    said: np.ndarray
    wait_s: np.ndarray
    queue_s: np.ndarray
    infer_s: np.ndarray
    macro_f1: float
    accuracy: float
    f1_by_stage: list[float]
    by_stage: list[float]
    shares: dict[str, float]
    served: float
    counters: dict[str, int]
    pace: float = np.nan
    is_calm: np.ndarray | None = None

    @property
    def latency_s(self) -> np.ndarray:
        """(flows,) from the first packet to the answer."""
        return self.wait_s + self.queue_s + self.infer_s

    @property
    def serving_s(self) -> np.ndarray:
        """(flows,) from the arrival of the answered row to the answer."""
        return self.queue_s + self.infer_s

    @property
    def calm_s(self) -> np.ndarray:
        """serving_s of the flows that were served while the machine had its usual speed."""
        return self.serving_s if self.is_calm is None else self.serving_s[self.is_calm]

    @property
    def early(self) -> float:
        """Share of flows answered within EARLY_S of their first packet."""
        return float((self.latency_s <= EARLY_S).mean())


@dataclass
class Report:
    """All measurements.

    Attributes:
        recorded: runs with recorded gaps, one for each system.
        loaded: runs of the cascade at each load.
        capacities: new flows a second that one processor sustains in an open loop, by system,
            all repeats; see replay.sustained().
        full_speeds: the same in full batches, however late.
        flows: number of recorded flows.
        models: name@digest by stage.
        lost: by how much macro-F1 is below that of the one slow model, recorded gaps, and its
            95 % interval by captures.
    """

    flows: int
    models: tuple[str, ...]
    depths: tuple[int, ...]
    capacities: dict[str, list[float]] = field(default_factory=dict)
    full_speeds: dict[str, float] = field(default_factory=dict)
    recorded: list[Run] = field(default_factory=list)
    loaded: list[Run] = field(default_factory=list)
    lost: tuple[float, float, float] = (np.nan, np.nan, np.nan)

    def run(self, system: str) -> Run:
        """Return the run of a system with recorded gaps."""
        return next(one for one in self.recorded if one.system == system)

    @property
    def speed_up(self) -> float:
        """Ratio of the median latencies of the slow model and of the cascade."""
        wait, ours = (np.median(self.run(name).latency_s) for name in ("wait", "cascade"))
        return float(wait / ours)

    @property
    def of_oracle(self) -> float:
        """Answers within EARLY_S, as a share of the oracle's answers in that time."""
        return self.run("cascade").early / max(self.run("oracle").early, 1e-9)

    @property
    def capacity(self) -> float:
        """New flows a second that the cascade sustains on one processor."""
        return float(np.median(self.capacities["cascade"]))


def depths_of(model: CascadeModel, slow: Model) -> tuple[int, ...]:
    """Return the depths at which flows must be recorded."""
    return tuple(sorted({*model.depths, slow.first_n}))


def run(
    model: CascadeModel,
    slow: Model,
    recorded: Recorded,
    settings: Settings,
    on_step: OnStep = lambda what, done, total: None,
) -> Report:
    """Measure a cascade and the baselines on recorded flows.

    Args:
        slow: the single model that waits for all its packets.
        recorded: at depths_of().
    """
    stages = model.servings()
    fixed = [
        System("cascade", stages),
        baselines.waiting("wait", slow, stages[-1].stage),
        baselines.alone("fast", stages[0]),
        baselines.alone("slow", stages[-1]),
    ]
    report = Report(len(recorded), model.models, model.depths)
    total = len(fixed) + 1 + 6 + len(PROCESSES) * len(settings.loads)
    for one in fixed:
        on_step(f"capacity, {one.name}", len(report.capacities), total)
        _capacities(report, one, recorded, settings)
    _recorded_gaps(report, fixed, stages, recorded, settings, on_step, total)
    for name in PROCESSES:
        for load in settings.loads:
            on_step(f"{name}, load {load:g}", total - 1, total)
            _load(report, fixed[0], recorded, settings, name, load)
    return report


def _load(
    report: Report, ours: System, recorded: Recorded, settings: Settings, name: str, load: float
) -> None:
    before, pace = Pace(), Pace()
    # the machine may have become faster
    most = 2 * report.full_speeds[ours.name]
    capacity = _capacity(ours, recorded, settings, most, before)
    rate = load * capacity
    start = PROCESSES[name](max(int(rate * settings.seconds), 100), rate, settings.seed)
    made = _loaded_schedule(recorded, start, ours, settings.seed)
    outcome = replay(made, ours.stages, pace)
    served = _run(ours, Offered(name, load, rate), recorded, made, outcome)
    slower = pace.usual_ns / before.usual_ns
    is_calm = pace.is_calm(outcome.row_ns, outcome.answered_ns, before.usual_ns)
    report.loaded.append(replace(served, pace=slower, is_calm=is_calm))


def _capacities(report: Report, system: System, recorded: Recorded, settings: Settings) -> None:
    start = arrivals.poisson(FULL_SPEED_FLOWS, FULL_SPEED_RATE, settings.seed)
    all_at_once = _loaded_schedule(recorded, start, system, settings.seed)
    report.full_speeds[system.name] = most = full_speed(all_at_once, system.stages)
    report.capacities[system.name] = [
        _capacity(system, recorded, settings, most)
        for _ in range(CAPACITY_REPEATS if system.name == "cascade" else 1)
    ]


def _capacity(
    system: System,
    recorded: Recorded,
    settings: Settings,
    most: float,
    pace: Pace | None = None,
) -> float:
    def in_a_row(rate: float) -> Schedule:
        start = arrivals.poisson(max(int(rate * CAPACITY_S), 100), rate, settings.seed)
        return _loaded_schedule(recorded, start, system, settings.seed)

    return max(sustained(in_a_row, system.stages, most, pace), 1.0)


def _loaded_schedule(recorded: Recorded, start: np.ndarray, system: System, seed: int) -> Schedule:
    return arrivals.schedule(recorded, start, system.depths, LONGEST_WAIT_S, seed)


def _recorded_gaps(
    report: Report,
    fixed: list[System],
    stages: list[Serving],
    recorded: Recorded,
    settings: Settings,
    on_step: OnStep,
    total: int,
) -> None:
    start = arrivals.poisson(len(recorded), RECORDED_RATE, settings.seed)

    def serve(system: System) -> Outcome:
        on_step(f"recorded gaps, {system.name}", len(fixed) + len(report.recorded), total)
        made = arrivals.schedule(recorded, start, system.depths, seed=settings.seed)
        outcome = replay(made, system.stages)
        offered = Offered("recorded", 0.0, RECORDED_RATE)
        report.recorded.append(_run(system, offered, recorded, made, outcome))
        return outcome

    ours = serve(fixed[0])
    for system in fixed[1:]:
        serve(system)
    serve(baselines.random_escalation(stages, ours, settings.seed))
    made = arrivals.schedule(recorded, start, fixed[0].depths, seed=settings.seed)
    serve(baselines.oracle(stages, recorded, made))
    unknown = len(stages[0].classes)  # one class more, for flows that were given none
    said = [np.where(one.said < 0, unknown, one.said) for one in report.recorded[:2]]
    label, capture = recorded.label[made.base], recorded.capture[made.base]
    report.lost = evaluate.difference(label, said[1], said[0], capture, unknown + 1, settings.seed)


def _run(
    system: System, offered: Offered, recorded: Recorded, made: Schedule, outcome: Outcome
) -> Run:
    """Return the figures of a replay."""
    label, stages = recorded.label[made.base], len(system.stages)
    classes = len(system.stages[0].classes)
    answered = [outcome.stage == i for i in range(stages)]
    wait_ns = outcome.row_ns - made.start_ns
    serving_ns = outcome.answered_ns - outcome.row_ns
    infer_ns = np.minimum(outcome.infer_ns, serving_ns)
    took_ns = outcome.answered_ns.max() - made.start_ns[0]
    return Run(
        system=system.name,
        arrivals=offered.process,
        load=offered.load,
        rate=offered.rate,
        said=outcome.said,
        wait_s=wait_ns / 1e9,
        queue_s=(serving_ns - infer_ns) / 1e9,
        infer_s=infer_ns / 1e9,
        macro_f1=_macro_f1(label, outcome.said, classes),
        accuracy=float((outcome.said == label).mean()),
        f1_by_stage=[_macro_f1(label[of], outcome.said[of], classes) for of in answered],
        by_stage=[float(of.mean()) for of in answered],
        shares=_shares(outcome, answered[-1]),
        served=len(made) / float(took_ns / 1e9),
        counters=outcome.counters,
    )


def _shares(outcome: Outcome, is_last: np.ndarray) -> dict[str, float]:
    """Return the shares of flows by how they were answered; is_last: (flows,) by the last stage."""
    return {
        "early": float((~is_last & ~outcome.degraded).mean()),
        "escalated": float(is_last.mean()),
        "degraded": float(outcome.degraded.mean()),
        "timed_out": float(outcome.timed_out.mean()),
    }


def _macro_f1(label: np.ndarray, said: np.ndarray, classes: int) -> float:
    """Return macro-F1; -1 in `said` is never right. nan without flows."""
    if not len(label):
        return float("nan")
    # one class more, for flows that were given none
    said = np.where(said < 0, classes, said)
    return float(evaluate.macro_f1(evaluate.confusion_matrix(label, said, classes + 1)))
