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
        samples: that these are of.
        is_disturbed: too few were left, so that these are of all samples.
    """

    median: float
    p20: float
    mad: float
    samples: int
    is_disturbed: bool


class Stopwatch:
    """Times pieces of work beside one reference.

    Args:
        nominal_ns: of another stopwatch on this machine, so that both give the same figures;
            None to measure it.

    Attributes:
        nominal_ns: what one call of the reference takes here when nothing disturbs.
    """

    def __init__(self, nominal_ns: float | None = None, seed: int = 0) -> None:
        values = np.random.default_rng(seed).random(8192)
        self._reference = lambda: np.sort(values)
        self._loops = _loops_for(self._reference)
        if nominal_ns is None:
            times = [_sample(self._reference, self._loops)[0] for _ in range(REPEATS)]
            nominal_ns = float(np.percentile(times, 20))
        self.nominal_ns = nominal_ns

    def time(
        self, pieces: Mapping[str, Callable[[], object]], repeats: int = REPEATS
    ) -> dict[str, Timing]:
        """Return the time of each piece; their samples take turns.

        Rounds go on until half of `repeats` samples of each piece are kept, ROUNDS_MAX at most.
        """
        loops = {name: _loops_for(piece) for name, piece in pieces.items()}
        ratios = {name: np.zeros(0) for name in pieces}
        is_good = {name: np.zeros(0, bool) for name in pieces}
        for _ in range(ROUNDS_MAX):
            for name, (more, good) in self._round(pieces, loops, repeats).items():
                ratios[name] = np.concatenate([ratios[name], more])
                is_good[name] = np.concatenate([is_good[name], good])
            if min(good.sum() for good in is_good.values()) >= repeats / 2:
                break
        return {
            name: _timing(ratios[name] * self.nominal_ns, is_good[name], repeats / 2)
            for name in pieces
        }

    def _round(
        self, pieces: Mapping[str, Callable[[], object]], loops: Mapping[str, int], repeats: int
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return (repeats,) ratios to the reference, and whether each is to be kept, by piece."""
        ratios = {name: np.zeros(repeats) for name in pieces}
        beside = {name: np.zeros(repeats) for name in pieces}
        is_alone = {name: np.zeros(repeats, bool) for name in pieces}
        for i in range(repeats):
            for name, piece in pieces.items():
                reference_ns, before = _sample(self._reference, self._loops)
                took_ns, within = _sample(piece, loops[name])
                ratios[name][i] = took_ns / reference_ns
                beside[name][i] = reference_ns
                is_alone[name][i] = not before + within
        usual = np.median(list(beside.values()))
        return {
            name: (ratios[name], is_alone[name] & (np.abs(beside[name] / usual - 1) <= DRIFT_MAX))
            for name in pieces
        }


def _timing(times: np.ndarray, is_good: np.ndarray, enough: float) -> Timing:
    is_disturbed = bool(is_good.sum() < enough)
    kept = times if is_disturbed else times[is_good]
    median = float(np.median(kept))
    return Timing(
        median=median,
        p20=float(np.percentile(kept, 20)),
        mad=float(np.median(np.abs(kept - median))),
        samples=len(kept),
        is_disturbed=is_disturbed,
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
