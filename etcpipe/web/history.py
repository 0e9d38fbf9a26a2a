"""What taps did in the last minutes, from the reports that they publish."""

from collections import deque
from typing import Any

from etcpipe.outputs.movement import Look, Place, movement
from etcpipe.outputs.watch import read_reports

EVERY_S = 1.0
# Five minutes of the page's charts.
KEPT = 300


class History:
    """Keeps how far each tap moved, second by second, for as long as it runs."""

    def __init__(self) -> None:
        self._before: dict[Place, Look] = {}
        self._moved: dict[Place, deque[dict[str, Any]]] = {}

    def sample(self) -> None:
        """Look at the reports once more. Taps that ended are forgotten."""
        looks = {(r["netns"], r["device"]): _look(r) for r in read_reports()}
        for place, look in looks.items():
            before = self._before.get(place)
            if before is None or look["time"] > before["time"]:
                if before is not None:
                    self._moved.setdefault(place, deque(maxlen=KEPT)).append(movement(before, look))
                self._before[place] = look
        for gone in self._before.keys() - looks.keys():
            del self._before[gone]
            self._moved.pop(gone, None)

    def since(self, after: float) -> list[dict[str, Any]]:
        """Return movements newer than a Unix time, oldest first; all taps together."""
        moved = [one for kept in self._moved.values() for one in kept if one["time"] > after]
        return sorted(moved, key=lambda one: one["time"])


def _look(report: dict[str, Any]) -> Look:
    """Return a report in the form that movement() compares."""
    kept = ("device", "netns", "mode", "loader", "pid", "flows", "counters", "time")
    look = {name: report[name] for name in kept}
    return {**look, "capture": report.get("capture", "afxdp"), "report": report}
