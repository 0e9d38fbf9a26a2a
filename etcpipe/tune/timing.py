"""Processor time of short pieces of work on a machine that is not quiet.

A piece is run by itself until it takes about a third of a millisecond, so that it fits into a
slice of the scheduler, and beside a reference piece that is always the same: the figure is
the ratio of the two times a nominal time of the reference, so that a machine that is slower
for a while is no slower piece of work. Samples with another process in between, or beside a
reference that took unusually long, are rejected; the figure is the median of the others. A
mean, or one long run, orders pieces that differ by 10 % wrongly on a loaded machine.
"""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

SAMPLE_NS = 300_000
REPEATS = 40
ROUNDS_MAX = 4
DRIFT_MAX = 0.05  # of the reference against its median, else the sample is rejected
_LOOPS_MAX = 10_000


@dataclass(frozen=True)
class Timing:
    """Processor time of one call of a piece, ns, by the reference's nominal time.

    Attributes:
        median, p20: of the samples that were kept.
        mad: median absolute deviation, the noise.
        samples: that were kept.
        rejected: samples that were not.
        is_disturbed: so many were rejected that too few are left.
    """

    median: float
    p20: float
    mad: float
    samples: int
    rejected: int
    is_disturbed: bool


class Stopwatch:
    """Times pieces of work beside one reference.

    Attributes:
        nominal_ns: what one call of the reference takes here when nothing disturbs.
    """

    def __init__(self, seed: int = 0) -> None:
        values = np.random.default_rng(seed).random(8192)
        self._reference = lambda: np.sort(values)
        self._loops = _loops_for(self._reference)
        times = [_sample(self._reference, self._loops)[0] for _ in range(REPEATS)]
        self.nominal_ns = float(np.percentile(times, 20))

    def time(
        self, pieces: Mapping[str, Callable[[], object]], repeats: int = REPEATS
    ) -> dict[str, Timing]:
        """Return the time of each piece; their samples take turns.

        Rounds go on until half of `repeats` samples of each piece are kept, ROUNDS_MAX at most.
        """
        loops = {name: _loops_for(piece) for name, piece in pieces.items()}
        kept: dict[str, list[float]] = {name: [] for name in pieces}
        rejected = dict.fromkeys(pieces, 0)
        for _ in range(ROUNDS_MAX):
            for name, (good, bad) in self._round(pieces, loops, repeats).items():
                kept[name] += good
                rejected[name] += bad
            if min(map(len, kept.values())) >= repeats / 2:
                break
        return {
            name: _timing(kept[name], rejected[name], repeats / 2, self.nominal_ns)
            for name in pieces
        }

    def _round(
        self, pieces: Mapping[str, Callable[[], object]], loops: Mapping[str, int], repeats: int
    ) -> dict[str, tuple[list[float], int]]:
        """Return ratios to the reference, and how many samples were rejected, by piece."""
        ratios: dict[str, list[float]] = {name: [] for name in pieces}
        beside: dict[str, list[float]] = {name: [] for name in pieces}
        clean: dict[str, list[bool]] = {name: [] for name in pieces}
        for _ in range(repeats):
            for name, piece in pieces.items():
                reference_ns, before = _sample(self._reference, self._loops)
                took_ns, within = _sample(piece, loops[name])
                ratios[name].append(took_ns / reference_ns)
                beside[name].append(reference_ns)
                clean[name].append(not before + within)
        usual = np.median([ns for times in beside.values() for ns in times])
        found = {}
        for name in pieces:
            steady = np.abs(np.array(beside[name]) / usual - 1) <= DRIFT_MAX
            good = np.array(ratios[name])[steady & np.array(clean[name])]
            found[name] = good.tolist(), repeats - len(good)
        return found


def _timing(ratios: list[float], rejected: int, enough: float, nominal_ns: float) -> Timing:
    if not ratios:
        return Timing(float("nan"), float("nan"), float("nan"), 0, rejected, True)
    times = np.array(ratios) * nominal_ns
    median = float(np.median(times))
    return Timing(
        median=median,
        p20=float(np.percentile(times, 20)),
        mad=float(np.median(np.abs(times - median))),
        samples=len(times),
        rejected=rejected,
        is_disturbed=len(ratios) < enough,
    )


def _loops_for(piece: Callable[[], object]) -> int:
    """Return how often a piece must be run to take SAMPLE_NS, after it has warmed up."""
    loops = 1
    while True:
        took_ns = min(_sample(piece, loops)[0] for _ in range(3)) * loops
        if took_ns >= SAMPLE_NS / 2 or loops >= _LOOPS_MAX:
            return max(1, min(_LOOPS_MAX, round(loops * SAMPLE_NS / max(took_ns, 1))))
        loops *= 4


def _sample(piece: Callable[[], object], loops: int) -> tuple[float, int]:
    """Return thread CPU time of one run, ns, and how often the scheduler took the CPU away."""
    switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    began = time.thread_time_ns()
    for _ in range(loops):
        piece()
    took_ns = time.thread_time_ns() - began
    return took_ns / loops, resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - switches
