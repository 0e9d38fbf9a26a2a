"""A whole run of etcpipe tune: read flows, search, compare, measure again, write."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from etcpipe.dataset import Input
from etcpipe.errors import UsageError
from etcpipe.gpu.views import VIEWS
from etcpipe.layout import CONSTANTS
from etcpipe.tune import compare, finish
from etcpipe.tune.cache import Cache
from etcpipe.tune.cost import Profiler
from etcpipe.tune.data import LabelledFlows
from etcpipe.tune.evaluation import COSTS, Evaluator, Parts, divide
from etcpipe.tune.finish import Tell
from etcpipe.tune.front import Front, write_front
from etcpipe.tune.hypervolume import hypervolume
from etcpipe.tune.priors import Prior, mutual_information
from etcpipe.tune.search import FrontSearch, Limits, Measured, objectives
from etcpipe.tune.space import Space
from etcpipe.tune.study import Budget, Study, Work, search_together
from etcpipe.tune.told import FLOWS_MAX, look

log = logging.getLogger(__name__)
CACHE = "costs.jsonl"
# Whole flows: as many packets as can be kept, and no verdict before a flow ends or is idle.
WHOLE = Input(first_n=CONSTANTS["FIRST_N_MAX"], wait_s=60.0)
# Waiting times to choose from if latency is minimised; a silent flow gets 0.1 s more.
SHORTER_WAITS = (0.02, 0.05, 0.1, 0.2, 0.5)
# Progress shows the hypervolume of costs down to this share of the cost of all columns.
_SHARE_MIN = 1e-3


@dataclass(frozen=True)
class Settings:
    """What to search for.

    Attributes:
        objective: the cost to be minimised, a name of COSTS.
        limits: that a useful point must keep.
        budget: of the search alone; the work after it is not counted.
        jobs: processes that search.
        resume: continue the search in the folder.
        baselines: what to measure beside: "none"; "rules": ALL, RFE10 and MI10, whose columns
            are chosen by a rule; "all": these, and random search, NSGA-II and annealing.
        has_throughput: measure the throughput of the final points, ten seconds each.
        waits_s: waiting times to choose from beside that of the flows; longer ones are ignored.
        mask, split, seed: as in etcpipe train.
    """

    objective: str = "cpu_ns"
    limits: Limits = field(default_factory=Limits)
    budget: Budget = field(default_factory=lambda: Budget(evaluations=100))
    jobs: int = 1
    resume: bool = False
    baselines: str = "none"
    has_throughput: bool = False
    waits_s: tuple[float, ...] = ()
    mask: str = "strict"
    split: str = "capture"
    seed: int = 1


@dataclass(frozen=True)
class Search:
    """A search that is ready to begin."""

    evaluator: Evaluator
    prior: Prior
    study: Study
    settings: Settings
    folder: Path


def prepare(flows: LabelledFlows, folder: Path, settings: Settings) -> Search:
    """Return a new or resumed search over flows.

    Raises:
        UsageError: nothing can be learned from these flows, or the folder has another search.
        OutputError: the folder cannot be written.
    """
    if settings.objective not in COSTS:
        raise UsageError(f"no cost {settings.objective!r}: choose {', '.join(COSTS)}")
    parts = divide(flows, settings.seed, settings.split)
    space, prior = _space(flows, parts, settings)
    about = {
        "data": flows.dataset.digest(),
        "columns": list(space.columns),
        "greatest depth": space.depth_max,
        "wait": list(space.waits_s),
        "cost": settings.objective,
        "seed": settings.seed,
        "split": settings.split,
    }
    study = Study.begin(folder, space, about, settings.resume)
    evaluator = _evaluator(flows, space, parts, settings, folder)
    return Search(evaluator, prior, study, settings, folder)


def _evaluator(
    flows: LabelledFlows, space: Space, parts: Parts, settings: Settings, folder: Path
) -> Evaluator:
    """Return an evaluator; each process has its own, all with the same cache."""
    cache = Cache(folder / CACHE, flows.dataset.digest())
    profiler = Profiler(flows.flows, flows.view, flows.settings.wait_s, cache, settings.seed)
    return Evaluator(
        flows,
        space,
        parts,
        profiler,
        settings.objective,
        settings.mask,
        settings.seed,
        settings.has_throughput,
    )


def _space(flows: LabelledFlows, parts: Parts, settings: Settings) -> tuple[Space, Prior]:
    """Return the space of informative columns, and the prior.

    Raises:
        UsageError: one class, no such column, or no flow has a packet.
    """
    names = VIEWS[flows.view].column_names(settings.mask)
    deepest = int(flows.packets().max(initial=0))
    if deepest == 0:
        raise UsageError("no flow has a packet that counts: try --counting all")
    depth = min(flows.settings.first_n, deepest)
    if depth < flows.settings.first_n:
        log.warning("no flow has more than %d packets: no greater depth is searched", depth)
    seen = ~parts.is_test
    rows = flows.rows(names, depth)[seen]
    information = mutual_information(rows, flows.dataset.label[seen], settings.seed)
    chosen = np.flatnonzero(information > 0)
    if not len(chosen):
        raise UsageError("no feature is left: none tells anything of the classes")
    longest = flows.settings.wait_s
    waits_s = (*sorted(one for one in set(settings.waits_s) if one < longest), longest)
    space = Space(tuple(names[i] for i in chosen), depth, waits_s=waits_s)
    drawn = np.random.default_rng(settings.seed).permutation(np.flatnonzero(seen))[:FLOWS_MAX]
    some = flows.select(drawn)
    told = look(space, lambda at: some.rows(space.columns, at), some.dataset.label)
    return space, Prior(space, information[chosen], told)


@threadpool_limits.wrap(limits=1)
def search(one: Search, on_measured: Callable[[Sequence[Measured], float], None]) -> None:
    """Measure points until the budget is spent, or Ctrl-C; libraries compute in one thread.

    Args:
        on_measured: called with all measurements and their hypervolume.
    """
    settings, evaluator = one.settings, one.evaluator
    strategy = FrontSearch(one.prior, settings.limits)

    def tell(measured: Sequence[Measured]) -> None:
        on_measured(measured, covered(measured, evaluator.space))

    space = evaluator.space
    again = partial(_evaluator, evaluator.flows, space, evaluator.parts, settings, one.folder)
    budget = settings.budget
    until = None if budget.seconds is None else time.time() + budget.seconds
    work = Work(one.folder, strategy, again, budget, space, until)
    search_together(one.study, evaluator, work, settings.jobs, settings.seed, tell)


def covered(measured: Sequence[Measured], space: Space) -> float:
    """Return the hypervolume so far, on log cost from 1/1000 to once the cost of all columns."""
    everything = space.everything()
    dearest = next((one.cost for one in measured if one.choice == everything), None)
    if dearest is None:
        return 0.0
    values = objectives(measured)
    values[:, 1] = (values[:, 1] - np.log(dearest)) / -np.log(_SHARE_MIN) + 1
    return hypervolume(values, (1.0, 1.0 + 1e-9))


@threadpool_limits.wrap(limits=1)
def complete(
    one: Search, tell: Tell, read_whole: Callable[[], LabelledFlows] | None = None
) -> Front:
    """Measure the front again, write it with its models, and return it.

    Args:
        read_whole: reads the same captures with WHOLE, for baselines of whole flows.

    Raises:
        UsageError: nothing was measured yet.
        OutputError: the folder cannot be written.
    """
    evaluator, settings = one.evaluator, one.settings
    measured = one.study.measured()
    finals = finish.measure_again(evaluator, measured, settings.limits, tell)
    searches = {"etcpipe": measured}
    fixed = []
    if settings.baselines != "none":
        whole = _whole(one, read_whole()) if read_whole else None
        fixed = finish.fixed_choices(evaluator, one.prior, tell, whole)
    if settings.baselines == "all":
        searches |= compare.other_searches(evaluator, one.prior, measured, tell)
    points = finish.points_of(evaluator, finals, settings.limits, one.folder)
    flows = evaluator.flows
    front = Front(
        data=flows.dataset.digest(),
        view=flows.view,
        mask=settings.mask,
        count=flows.settings.count,
        wait_s=flows.settings.wait_s,
        split=settings.split,
        classes=flows.dataset.classes,
        cost=settings.objective,
        points=tuple(points),
        limits=_limits(settings),
        baselines=tuple(fixed),
        about=_about(evaluator) | {"searches": compare.curves(searches)},
    )
    write_front(front, one.folder)
    return front


def _whole(one: Search, flows: LabelledFlows) -> Evaluator:
    """Return an evaluator of whole flows, divided as the flows of the search."""
    waits_s = (flows.settings.wait_s,)
    space = Space(one.evaluator.space.columns, flows.settings.first_n, waits_s=waits_s)
    parts = one.evaluator.parts.of(one.evaluator.flows, flows)
    return _evaluator(flows, space, parts, one.settings, one.folder)


def _about(evaluator: Evaluator) -> dict[str, Any]:
    return {
        "seed": evaluator.seed,
        "flows": len(evaluator.flows),
        "captures": len(evaluator.flows.dataset.captures),
        "put_aside": int(evaluator.parts.is_test.sum()),
        "columns": list(evaluator.space.columns),
        "depth_max": evaluator.space.depth_max,
        "choices": float(evaluator.space.size()),
        "disturbed": evaluator.disturbed,
    }


def _limits(settings: Settings) -> dict[str, float]:
    limits = dict(settings.limits.others)
    if settings.limits.cost is not None:
        limits[settings.objective] = settings.limits.cost
    if settings.limits.error is not None:
        limits["f1"] = 1 - settings.limits.error
    return limits
