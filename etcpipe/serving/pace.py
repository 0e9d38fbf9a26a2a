"""Measures how fast the machine is while something else is measured on it.

Processor time does not count while another program runs, but if other programs fill the caches or
share the core, or the host is slow, the same work takes up to twice as long. So a small piece of
work is timed again and again during a measurement. The measured code takes room in the caches too:
under more load the machine seems a little slower by this measure.
"""

import time

import numpy as np

EVERY_NS = 1_000_000
# A time above this multiple of the usual one means that serving was slower then, too.
SLOW = 1.5
_NUMBERS = 32_768  # 256 kB: half of it misses the caches of a core that is shared


class Pace:
    """Times of the piece of work.

    Attributes:
        at_ns: when it was done.
        took_ns: how long it took.
    """

    def __init__(self) -> None:
        self.at_ns: list[int] = []
        self.took_ns: list[int] = []
        self._numbers = np.arange(_NUMBERS)
        self._last_ns = -EVERY_NS

    def look(self, now_ns: int) -> None:
        """Do the work, unless it was done a moment ago; the clock of now_ns should be stopped."""
        if self._last_ns <= now_ns < self._last_ns + EVERY_NS:
            return  # a clock that was restarted is earlier
        self._last_ns = now_ns
        began_ns = time.thread_time_ns()
        self._numbers.sum()
        self.at_ns.append(now_ns)
        self.took_ns.append(time.thread_time_ns() - began_ns)

    @property
    def usual_ns(self) -> float:
        """The median time; nan if the work was never done."""
        return float(np.median(self.took_ns)) if self.took_ns else float("nan")

    def is_calm(self, from_ns: np.ndarray, until_ns: np.ndarray, usual_ns: float) -> np.ndarray:
        """Return (spans,) bool, the time spans in which the machine was not much slower.

        Args:
            from_ns, until_ns: (spans,) by the clock of look().
        """
        is_slow = np.array(self.took_ns) > SLOW * usual_ns
        slow_ns = np.array(self.at_ns, np.int64)[is_slow]
        first = np.searchsorted(slow_ns, from_ns - EVERY_NS)
        last = np.searchsorted(slow_ns, until_ns + EVERY_NS, side="right")
        return first == last
