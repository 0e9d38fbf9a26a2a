"""The information in each column at each depth, computed before anything is measured.

The prior uses the information of a column at the greatest depth. After one packet, or three, many
columns are constant or equivalent to others. That follows from the flows alone, so predictions need
no measurement to learn it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from etcpipe.tune.space import Choice, Space

FLOWS_MAX = 4000  # flows to look at; more take longer for little gain
_BINS = 16  # bins of equal size into which columns are divided
_CONSTANT = -1


@dataclass(frozen=True)
class Told:
    """The information in the columns of a space at each depth, with the longest wait.

    Attributes:
        information: (depths, columns) float64, of each column about the label, in nats.
        same: (depths, columns) int, the first column that sorts flows in the same or the
            reverse order, which makes them equivalent for trees; _CONSTANT if all values are
            equal.
    """

    space: Space
    information: np.ndarray
    same: np.ndarray

    def places(self, choices: Sequence[Choice]) -> np.ndarray:
        """Return (choices, 3) float64 within 0 .. 1, their information as input of a surrogate.

        Of the most informative column, of the best two, and of all.
        """
        depth = np.array([one.depth for one in choices]) - 1
        on = self.space.places(choices)[:, : len(self.space.columns)]
        each = -np.sort(-self.information[depth] * on, axis=1)
        most = max(float(self.information.max()), 1e-9)
        whole = max(float(self.information.sum(axis=1).max()), 1e-9)
        return np.stack(
            [each[:, 0] / most, each[:, :2].sum(axis=1) / (2 * most), each.sum(axis=1) / whole],
            axis=1,
        )

    def least(self, choice: Choice) -> Choice:
        """Return a choice without its equivalent and constant columns.

        Choices with the same result have the same error, apart from chance. With one packet, the
        waiting time makes no difference.
        """
        of = self._same(choice)
        if of is None:
            return choice
        kept = {int(of[i]) for i in choice.features} - {_CONSTANT}
        features = tuple(sorted(kept)) or (int(np.argmin(of)),)
        wait = len(self.space.waits_s) - 1
        return replace(choice, features=features, wait=wait)

    def most(self, choice: Choice) -> Choice:
        """Return a choice with all columns that are constant or equivalent to one of its own."""
        of = self._same(choice)
        if of is None:
            return choice
        kept = np.isin(of, [_CONSTANT, *of[list(choice.features)]])
        return replace(choice, features=tuple(np.flatnonzero(kept).tolist()))

    def _same(self, choice: Choice) -> np.ndarray | None:
        """Return `same` at a choice's depth; None if a shorter wait leaves other packets."""
        if choice.depth > 1 and choice.wait < len(self.space.waits_s) - 1:
            return None
        return self.same[choice.depth - 1]


def look(space: Space, rows_at: Callable[[int], np.ndarray], label: np.ndarray) -> Told:
    """Compute the information in the columns.

    Args:
        rows_at: returns the (flows, columns) float32 at a depth; FLOWS_MAX flows suffice.
        label: (flows,) int.
    """
    depths = [rows_at(depth) for depth in range(1, space.depth_max + 1)]
    information = [[_information(column, label) for column in rows.T] for rows in depths]
    return Told(space, np.array(information), np.array([list(_same(rows)) for rows in depths]))


def _information(column: np.ndarray, label: np.ndarray) -> float:
    """Return the mutual information of a column, divided into bins, and the label."""
    edges = np.unique(np.quantile(column, np.linspace(0, 1, _BINS + 1)[1:-1]))
    cell = np.searchsorted(edges, column) * (int(label.max()) + 1) + label
    count = np.bincount(cell, minlength=(len(edges) + 1) * (int(label.max()) + 1))
    joint = count.reshape(len(edges) + 1, -1) / len(label)
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())


def _same(rows: np.ndarray) -> Iterator[int]:
    """Yield for each column the first equivalent one; _CONSTANT if it has a single value."""
    first: dict[bytes, int] = {}
    for number, column in enumerate(rows.T):
        place = np.unique(column, return_inverse=True)[1]
        if not place.any():
            yield _CONSTANT
            continue
        found = min(first.get(order.tobytes(), number) for order in (place, place.max() - place))
        first.setdefault(place.tobytes(), found)
        yield found
