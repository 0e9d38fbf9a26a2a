"""The end of a search: measures the front again, judges it on new captures, writes models."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from etcpipe.errors import OutputError, UsageError
from etcpipe.tune.baselines import by_elimination
from etcpipe.tune.cost import Cost
from etcpipe.tune.evaluation import Evaluator, Score
from etcpipe.tune.front import Point
from etcpipe.tune.hypervolume import knee
from etcpipe.tune.priors import Prior
from etcpipe.tune.search import Limits, Measured, front_of, objectives
from etcpipe.tune.space import Choice

REPEATS = 5
MODELS = "models"
# Columns that RFE and MI keep, and depths, as in CATO's comparison.
_FEW, _SHALLOW = 10, 10

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Final:
    """A point measured again.

    Attributes:
        measured: with the median of the repeated costs.
        cost: the repetition with that median; cpu_ns_mad is the spread of all repetitions.
        score: on the captures that were put aside.
    """

    measured: Measured
    cost: Cost
    score: Score


def measure_again(
    evaluator: Evaluator, measured: Sequence[Measured], limits: Limits, tell: Tell
) -> list[Final]:
    """Return the points that are on the front when each cost is the median of REPEATS.

    These are the front of all points, and the front of the points within the limits.

    Raises:
        UsageError: there is none.
    """
    candidates = front_of(measured, limits)
    if not candidates:
        raise UsageError("nothing was measured: give a larger --budget")
    again: list[tuple[Measured, Cost]] = []
    for i, one in enumerate(candidates):
        tell("the front again", i, len(candidates))
        cost = repeated_cost(evaluator, one.choice)
        others = one.others | {name: getattr(cost, name) for name in one.others}
        again.append((replace(one, cost=others[evaluator.objective], others=others), cost))
    costs = {one.choice: cost for one, cost in again}
    front = front_of([one for one, _ in again], limits)
    finals = []
    for i, one in enumerate(front):
        tell("what came out", i, len(front))
        finals.append(_final(evaluator, one, costs[one.choice]))
    return finals


def _final(evaluator: Evaluator, one: Measured, cost: Cost) -> Final:
    """Return a point with its score, and its throughput if that is to be measured."""
    if evaluator.has_throughput:
        cost = replace(cost, flows_per_s=evaluator.flows_per_s(one.choice))
    return Final(one, cost, evaluator.judge(one.choice))


def repeated_cost(evaluator: Evaluator, choice: Choice) -> Cost:
    """Return the median of REPEATS measurements, of those that were not disturbed if any."""
    runner = evaluator.runner_seen(choice)
    costs = [evaluator.cost(choice, runner, keep=False) for _ in range(REPEATS)]
    calm = [one for one in costs if not one.is_disturbed] or costs
    times = np.array([one.cpu_ns for one in calm])
    middle = calm[int(np.argsort(times)[len(times) // 2])]
    spread = float(np.median(np.abs(times - middle.cpu_ns)))
    return replace(middle, cpu_ns_mad=max(spread, middle.cpu_ns_mad))


def points_of(
    evaluator: Evaluator, finals: Sequence[Final], limits: Limits, folder: Path
) -> list[Point]:
    """Write the model of each point, fitted to all captures, and return the points.

    Raises:
        OutputError: the folder cannot be written.
    """
    at_knee = knee(objectives(one.measured for one in finals))
    kept = [one for one in finals if limits.hold(one.measured)]
    best = min(kept, key=lambda one: one.measured.error) if limits != Limits() and kept else None
    try:
        (folder / MODELS).mkdir(parents=True, exist_ok=True)
        for old in (folder / MODELS).glob("*.onnx"):
            old.unlink()
        points, captures = [], evaluator.flows.dataset.short_capture_digests()
        for i, one in enumerate(finals):
            points.append(replace(_point(evaluator, one, i), knee=i == at_knee, chosen=one is best))
            (folder / points[-1].model).write_bytes(_model(evaluator, one, i, captures))
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    return points


def _point(evaluator: Evaluator, one: Final, number: int) -> Point:
    choice = one.measured.choice
    kind = evaluator.space.models[choice.model]
    return Point(
        id=number,
        features=evaluator.space.names(choice),
        depth=choice.depth,
        kind=kind.kind,
        parameters=kind.as_dict(),
        model=f"{MODELS}/{number}.onnx",
        f1=round(one.score.f1, 4),
        f1_low=round(one.score.low, 4),
        f1_high=round(one.score.high, 4),
        f1_search=round(1 - one.measured.error, 4),
        cpu_ns=round(one.cost.cpu_ns, 1),
        cpu_ns_mad=round(one.cost.cpu_ns_mad, 1),
        latency_s=round(one.cost.latency_s, 6),
        flows_per_s=one.cost.flows_per_s,
        wait_s=evaluator.space.wait_s(choice),
        repeats=REPEATS,
    )


def _model(evaluator: Evaluator, one: Final, number: int, captures: tuple[str, ...]) -> bytes:
    choice = one.measured.choice
    rows = evaluator.rows(choice)
    fitted = evaluator.fit(choice, rows, np.ones(len(rows), bool))
    scores = {"macro_f1": one.score.f1, "macro_f1_interval": [one.score.low, one.score.high]}
    description = evaluator.describe(
        choice, f"point-{number}", evaluator.calibrate(choice), {**scores, "arch": "tune"}
    )
    return fitted.to_onnx(rows.shape[1], replace(description, captures=captures))


def fixed_choices(
    evaluator: Evaluator, prior: Prior, tell: Tell, whole: Evaluator | None = None
) -> list[dict[str, Any]]:
    """Return ALL, RFE10 and MI10 at some depths, measured as points are.

    Each gets the model that is best on the folds of the search.

    Args:
        whole: of the same flows until their end, for columns of whole flows; None: omit these.
    """
    space, seen = evaluator.space, ~evaluator.parts.is_test
    rows, label = evaluator.rows(space.everything()), evaluator.flows.dataset.label
    columns = {
        "ALL": space.everything().features,
        "RFE10": by_elimination(rows[seen], label[seen], _FEW, evaluator.seed),
        "MI10": prior.top(_FEW),
    }
    depths = sorted({min(_SHALLOW, space.depth_max), space.depth_max})
    places = [(str(depth), depth, evaluator) for depth in depths]
    if whole is not None:
        places.append(("end", whole.space.depth_max, whole))
    found: list[dict[str, Any]] = []
    for name, features in columns.items():
        for at, depth, one in places:
            tell(f"{name} at {at}", len(found), len(places) * len(columns))
            point = _fixed(one, features, depth, len(found))
            found.append({"name": name, "at": at} | asdict(point) | {"model": ""})
    return found


def _fixed(evaluator: Evaluator, features: tuple[int, ...], depth: int, number: int) -> Point:
    plain = replace(evaluator.space.everything(depth), features=features)
    kinds = range(len(evaluator.space.models))
    choices = [replace(plain, model=kind) for kind in kinds]
    error, choice = min((evaluator.error(one)[0], one) for one in choices)
    cost = repeated_cost(evaluator, choice)
    measured = evaluator.measured(choice, error, cost)
    return _point(evaluator, _final(evaluator, measured, cost), number)
