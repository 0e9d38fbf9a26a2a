"""What tools/bench/serving.py does beside serving: captures dealt anew, and what came of each."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from command import ROOT
from labelled import write_recordings

from etcpipe.dataset import find_recordings
from etcpipe.serving import bench


@pytest.fixture
def partitions(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(ROOT / "tools" / "bench")
    yield import_module("partitions")
    for name in ("partitions", "common"):
        sys.modules.pop(name)


def test_a_third_of_the_captures_is_served_and_a_seed_says_which(
    partitions: ModuleType, tmp_path: Path
) -> None:
    every = find_recordings(write_recordings(tmp_path))
    served = set()
    for seed in range(8):
        learns, serves = partitions.dealt(every, seed)
        assert [one.path for one in partitions.dealt(every, seed)[1]] == [serves[0].path]
        assert sorted([*learns, *serves], key=lambda one: one.path) == every
        served.add(serves[0].path)
    assert len(served) > 1


def run_of(system: str, answered_s: float) -> bench.Run:
    """A run of two flows, of which one is answered at once."""
    wait_s = np.array([0.001, answered_s])
    none = np.zeros(2)
    return bench.Run(
        system, "recorded", 0, 1, none, wait_s, none, none, 0.5, 0.5, [0.5], [1.0], {}, 1.0, {}
    )


def test_a_partition_without_a_cascade_reaches_no_goal(partitions: ModuleType) -> None:
    early = [run_of(name, 0.002) for name in ("cascade", "oracle")]
    found = bench.Report(
        2,
        ("m@1",),
        (1, 3),
        {"cascade": [40_000.0]},
        {"cascade": 50_000.0},
        [*early, run_of("wait", 1.0)],
        [],
        (0.02, 0.01, 0.03),
    )
    shown = partitions.Report("serving", "by hand", {})
    partitions.show_each({1: found, 2: None}, shown)
    one, none, *spread = shown.tables[0].rows
    assert (one[0], one[-1], none[2]) == ("1", "3 of 4", "none is so early")
    assert [row[5] for row in spread] == ["-0.020"] * 3
    assert [goal.measured for goal in shown.goals] == [f"by {n} of 2" for n in (1, 1, 0, 1)]
    assert not any(goal.met for goal in shown.goals)
