"""front.json: the Pareto front, with all that is needed to run or repeat each point.

The file lies in a folder with the model files that it names. `front.json#7` means point 7;
without a number it means the chosen point: the best one within the user's limits, or the knee of
the front if there were none.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from etcpipe import __version__
from etcpipe.errors import ModelError, OutputError, UsageError
from etcpipe.layout import CONSTANTS

FORMAT = 1
FRONT = "front.json"
JOURNAL = "study.journal"  # the journal of a search, in the same folder


@dataclass(frozen=True)
class Point:
    """A choice of features, depth and model with its measurements.

    Attributes:
        id: its number in the file.
        features: columns of the front's view, in the model's order.
        depth: counted packets of a flow that it waits for at most.
        kind: of model, a name of tune.space.KINDS.
        parameters: of the model, to fit it again.
        model: the model file, relative to front.json.
        f1: macro-F1 on captures that no step of the search has seen.
        f1_low, f1_high: its 95 % interval, by captures.
        f1_search: macro-F1 on the held-out captures of the search; None: not known.
        cpu_ns: of extraction and inference, a flow, median; cpu_ns_mad its noise.
        latency_s: mean time from a flow's first packet to its verdict; None: not measured.
        flows_per_s: zero-loss throughput of one core; None: not measured.
        wait_s: silence after which a flow is judged as it is; None: as the front.
        repeats: how many times the cost was measured.
        knee: farthest from the line between the front's ends.
        chosen: the best within the limits that were given.
    """

    id: int
    features: tuple[str, ...]
    depth: int
    kind: str
    parameters: dict[str, Any]
    model: str
    f1: float
    f1_low: float
    f1_high: float
    cpu_ns: float
    cpu_ns_mad: float
    f1_search: float | None = None
    latency_s: float | None = None
    flows_per_s: float | None = None
    wait_s: float | None = None
    repeats: int = 1
    knee: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class Front:
    """A front and the data on which it was found.

    Attributes:
        data: digest of the rows that were searched.
        view: to which the features belong.
        mask, count, wait_s: as in a model file; a point may have a shorter wait.
        split: what fitted and judged flows never share, a name of dataset.SPLITS.
        cost: the second objective, a field of Point.
        limits: that were asked for, by name of a field of Point.
        points: in order of their cost, cheapest first.
        baselines: points of the baselines, measured in the same way.
        about: how it was searched: seed, budget, method, hypervolume by evaluation.
    """

    data: str
    view: str
    mask: str
    count: str
    wait_s: float
    split: str
    classes: tuple[str, ...]
    cost: str
    points: tuple[Point, ...]
    limits: dict[str, float] = field(default_factory=dict)
    baselines: tuple[dict[str, Any], ...] = ()
    about: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT
    version: str = __version__

    def point(self, number: int | None = None) -> Point:
        """Return a point, the chosen one (or else the knee) without a number.

        Raises:
            UsageError: there is no such point.
        """
        if number is None:
            marked = [one for one in self.points if one.chosen]
            marked += [one for one in self.points if one.knee]
            if not marked:
                raise UsageError(f"no point is marked: give one of {_numbers(self.points)}")
            return marked[0]
        for one in self.points:
            if one.id == number:
                return one
        raise UsageError(f"no point {number}: there are {_numbers(self.points)}")


@dataclass(frozen=True)
class PointFile:
    """A point that can be run: what it is, and where its model file lies."""

    point: Point
    front: Front
    model: Path


def load_point(name: str) -> PointFile:
    """Return the point that a name such as front.json#7 means.

    Args:
        name: a front.json or its folder; `#N` behind it is the point's number.

    Raises:
        UsageError: no such file or point.
        ModelError: the file is damaged or of another format, or the model file is gone.
    """
    path, hash_sign, number = name.rpartition("#")
    if not hash_sign:
        path, number = name, ""
    elif not number.isdigit():
        raise UsageError(f"{name}: give the number of a point, as in {path or FRONT}#7")
    file = front_file(path)
    front = load_front(file)
    try:
        point = front.point(int(number) if number else None)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    model = file.parent / point.model
    if not model.is_file():
        raise ModelError(f"{file}: {model} of point {point.id} is gone: keep the folder together")
    return PointFile(point, front, model)


def front_file(path: str | Path) -> Path:
    """Return the front.json that a path means, itself or in the folder."""
    file = Path(path)
    return file / FRONT if file.is_dir() else file


def load_front(path: str | Path) -> Front:
    """Load a front.json.

    Raises:
        UsageError: there is no such file.
        ModelError: damaged, or of another format.
    """
    file = front_file(path)
    try:
        values = json.loads(file.read_text())
    except OSError as error:
        if (file.parent / JOURNAL).exists() and not file.exists():
            raise UsageError(
                f"the search in {file.parent} was left: end it with --resume"
            ) from error
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{file} is damaged: run etcpipe tune again") from error
    if not isinstance(values, dict) or "points" not in values:
        raise ModelError(f"{file} is no front: give the {FRONT} that etcpipe tune wrote")
    if values.get("format") != FORMAT:
        raise ModelError(
            f"{file} is of format {values.get('format')}, this etcpipe reads format {FORMAT}"
        )
    try:
        points = tuple(_checked(_known(Point, one)) for one in values["points"])
        rest = {
            "points": points,
            "classes": tuple(values["classes"]),
            "baselines": tuple(values.get("baselines", ())),
        }
        return Front(**(_known(Front, values) | rest))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ModelError(f"{file} is damaged: run etcpipe tune again") from error


def write_front(front: Front, folder: Path) -> Path:
    """Write front.json into a folder and return its path.

    Raises:
        OutputError: it cannot be written.
    """
    file = folder / FRONT
    part = file.with_suffix(".part")
    try:
        part.write_text(json.dumps(asdict(front), indent=1) + "\n")
        part.replace(file)
    except OSError as error:
        raise OutputError(f"cannot write {file}: {error.strerror}") from error
    return file


def models_by_depth(front: Front, folder: Path) -> list[tuple[int, Path]]:
    """Return (depth, model file) of the best point of each depth, shallow first.

    These are the candidates for stages of a cascade: at each depth the point of the highest F1,
    and only depths that are better than every shallower one. All stages of a cascade have the
    same waiting time, so only points with the longest waiting time are taken.

    Args:
        folder: where front.json lies.
    """
    longest = max(one.wait_s or front.wait_s for one in front.points)
    points = [one for one in front.points if (one.wait_s or front.wait_s) == longest]
    stages: list[tuple[int, Path]] = []
    best = -1.0
    for depth in sorted({one.depth for one in points}):
        point = max((one for one in points if one.depth == depth), key=lambda one: one.f1)
        if point.f1 > best:
            best = point.f1
            stages.append((depth, folder / point.model))
    return stages


def _known(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that this version knows; a later version may have written more."""
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def _checked(values: dict[str, Any]) -> Point:
    point = Point(**(values | {"features": tuple(values["features"])}))
    if not 1 <= point.depth <= CONSTANTS["FIRST_N_MAX"] or not point.features:
        raise ValueError(f"point {point.id}")
    return point


def _numbers(points: Sequence[Point]) -> str:
    return ", ".join(str(one.id) for one in points) or "none"
