"""Measures the processor time of short pieces of work on a machine that is not quiet.

A sample repeats a piece for about a third of a millisecond, so that it fits into a time slice of
the scheduler, and goes with a reference piece that is always the same. The result is their ratio,
times the nominal time of the reference, so a machine that is temporarily slower does not change it.
Samples that were interrupted by another process, or whose reference took unusually long, are
rejected; the figure is the median of the rest. On a loaded machine, a mean or one long run gets the
order of pieces that differ by 10 % wrong.
"""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

SAMPLE_NS = 300_000
REPEATS = 40
ROUNDS_MAX = 4
DRIFT_MAX = 0.05  # of the reference from its median; with more, a sample is rejected
_LOOPS_MAX = 10_000


@dataclass(frozen=True)
class Timing:
    """Processor time of one call of a piece in ns, relative to the reference.

    Attributes:
        median, p20: of the accepted samples.
        mad: median absolute deviation, the noise.
        samples: number of samples behind these.
        is_disturbed: too few were accepted, so these are of all samples.
    """

    median: float
    p20: float
    mad: float
    samples: int
    is_disturbed: bool


class Stopwatch:
    """Times pieces of work, interleaved with one reference.

    Args:
        nominal_ns: of an earlier stopwatch on this machine, so that both give comparable figures;
            None: measure it.

    Attributes:
        nominal_ns: time of one call of the reference on this machine when it is undisturbed.
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
        """Return the time of each piece; the samples of the pieces are interleaved.

        Stops when half of `repeats` samples of each piece were accepted, or after ROUNDS_MAX.
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
        """Return (repeats,) ratios to the reference and whether each is accepted, by piece."""
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
    """Return how many runs of a piece take SAMPLE_NS, after warming up."""
    loops = 1
    while True:
        took_ns = min(_sample(piece, loops)[0] for _ in range(3)) * loops
        if took_ns >= SAMPLE_NS / 2 or loops >= _LOOPS_MAX:
            return max(1, min(_LOOPS_MAX, round(loops * SAMPLE_NS / max(took_ns, 1))))
        loops *= 4


def _sample(piece: Callable[[], object], loops: int) -> tuple[float, int]:
    """Return the thread's CPU time of a run in ns, and its involuntary context switches."""
    switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    began = time.thread_time_ns()
    for _ in range(loops):
        piece()
    took_ns = time.thread_time_ns() - began
    return took_ns / loops, resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw - switches
