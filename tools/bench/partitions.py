"""Captures dealt anew into those to learn from and those to serve, and what came of each deal."""

from statistics import mean

import numpy as np
from common import Goal, Report, Table

from etcpipe import dataset as datasets
from etcpipe.dataset import Input, Recording
from etcpipe.serving import bench, report

TEST_SHARE = 1 / 3
Parts = tuple[list[Recording], list[Recording]]


def dealt(recordings: list[Recording], seed: int) -> Parts:
    """Return the recordings to learn from and those to serve: a third of each class's, at random.

    A recording counts for the rarest of its classes.
    """
    rows = datasets.read(recordings, Input(first_n=1))
    has = np.zeros((len(rows.captures), len(rows.classes)), bool)
    has[rows.capture, rows.label] = True
    rarest = np.where(has, has.sum(axis=0), len(has) + 1).argmin(axis=1)
    rng, tests = np.random.default_rng(seed), set()
    for one in range(len(rows.classes)):
        of_class = rng.permutation(np.flatnonzero(rarest == one))
        tests |= {rows.captures[i] for i in of_class[: round(len(of_class) * TEST_SHARE)]}
    learns = [one for one in recordings if str(one.path) not in tests]
    return learns, [one for one in recordings if str(one.path) in tests]


def show_each(found: dict[int, bench.Report | None], shown: Report) -> None:
    """Put one line a partition into a report, and how many of them reach each goal.

    Args:
        found: by seed; None where no cascade is as early as was asked.
    """
    shown.results = {seed: one and report.as_numbers(one) for seed, one in found.items()}
    table = Table("Cascades of partitions, recorded gaps", _EACH)
    table.rows = [_row(seed, one) for seed, one in found.items()]
    served = [one for one in found.values() if one]
    for what in (min, mean, max) if served else ():
        figures = [what(column) for column in zip(*map(_figures, served), strict=True)]
        table.rows.append([what.__name__, "", "", *_as_text(figures), ""])
    shown.tables = [table]
    for row in zip(*map(report.goals, served), strict=True):
        met = sum(is_met for *_, is_met in row)
        measure, goal, *_ = row[0]
        in_all = met == len(found)
        shown.goals.append(Goal(measure, goal, f"by {met} of {len(found)}", in_all))


_EACH = ["seed", "flows", "stages at", "macro-F1", "slow model's", "above it", "≤ 16 ms"]
_EACH += ["of the oracle's", "speed-up", "flows/s", "goals"]


def _row(seed: int, found: bench.Report | None) -> list[str]:
    if found is None:
        return [str(seed), "", "none is so early", *[""] * (len(_EACH) - 3)]
    stages, goals = ", ".join(map(str, found.depths)), report.goals(found)
    met = f"{sum(is_met for *_, is_met in goals)} of {len(goals)}"
    return [str(seed), f"{found.flows:,}", stages, *_as_text(_figures(found)), met]


def _figures(found: bench.Report) -> list[float]:
    ours, wait = found.run("cascade"), found.run("wait")
    early = ours.early, found.of_oracle, found.speed_up, found.capacity
    return [ours.macro_f1, wait.macro_f1, -found.lost[0], *early]


def _as_text(figures: list[float]) -> list[str]:
    forms = "{:.3f}", "{:.3f}", "{:+.3f}", "{:.1%}", "{:.2f}", "{:.1f}", "{:,.0f}"
    return [form.format(one) for form, one in zip(forms, figures, strict=True)]
