"""What columns tell at each depth, by one look at the flows and before anything is measured.

The prior knows a column by what it tells at the greatest depth. What it tells of one packet, or
of three, is in the same flows: many columns are constant there, or the same as others. A guess
that knows that does not need a measurement to learn it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from etcpipe.tune.space import Choice, Space

FLOWS_MAX = 4000  # to look at; more take longer and change little
_BINS = 16  # of as many flows each, that columns are cut into
_CONSTANT = -1


@dataclass(frozen=True)
class Told:
    """What the columns of a space tell at its depths, after the longest wait.

    Attributes:
        information: (depths, columns) float64, of each column about the label, in nats.
        same: (depths, columns) int, the first column that has flows in the same order, or in the
            reverse one, which is all that a tree sees; _CONSTANT where all flows have one value.
    """

    space: Space
    information: np.ndarray
    same: np.ndarray

    def places(self, choices: Sequence[Choice]) -> np.ndarray:
        """Return (choices, 3) float64 within 0 .. 1, what they tell, as a surrogate sees it.

        That of the column that tells most, of the two that tell most, and of all.
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
        """Return a choice less the columns that tell what others of it do, or nothing.

        Choices of which it is the same give the same error, but for chance. Of one packet the wait
        makes no difference.
        """
        of = self._same(choice)
        if of is None:
            return choice
        kept = {int(of[i]) for i in choice.features} - {_CONSTANT}
        features = tuple(sorted(kept)) or (int(np.argmin(of)),)
        wait = len(self.space.waits_s) - 1
        return replace(choice, features=features, wait=wait)

    def most(self, choice: Choice) -> Choice:
        """Return a choice with all columns that tell what it does, or nothing."""
        of = self._same(choice)
        if of is None:
            return choice
        kept = np.isin(of, [_CONSTANT, *of[list(choice.features)]])
        return replace(choice, features=tuple(np.flatnonzero(kept).tolist()))

    def _same(self, choice: Choice) -> np.ndarray | None:
        """Return a depth's row of same; None where a shorter wait leaves other packets."""
        if choice.depth > 1 and choice.wait < len(self.space.waits_s) - 1:
            return None
        return self.same[choice.depth - 1]


def look(space: Space, rows_at: Callable[[int], np.ndarray], label: np.ndarray) -> Told:
    """Return what the columns tell.

    Args:
        rows_at: gives the (flows, columns) float32 of a depth; FLOWS_MAX flows are enough.
        label: (flows,) int.
    """
    depths = [rows_at(depth) for depth in range(1, space.depth_max + 1)]
    information = [[_information(column, label) for column in rows.T] for rows in depths]
    return Told(space, np.array(information), np.array([list(_same(rows)) for rows in depths]))


def _information(column: np.ndarray, label: np.ndarray) -> float:
    """Return the mutual information of a column, cut into bins of as many flows, and the label."""
    edges = np.unique(np.quantile(column, np.linspace(0, 1, _BINS + 1)[1:-1]))
    cell = np.searchsorted(edges, column) * (int(label.max()) + 1) + label
    count = np.bincount(cell, minlength=(len(edges) + 1) * (int(label.max()) + 1))
    joint = count.reshape(len(edges) + 1, -1) / len(label)
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())


def _same(rows: np.ndarray) -> Iterator[int]:
    """Yield for each column the first one of the same order, _CONSTANT for a single value."""
    first: dict[bytes, int] = {}
    for number, column in enumerate(rows.T):
        place = np.unique(column, return_inverse=True)[1]
        if not place.any():
            yield _CONSTANT
            continue
        found = min(first.get(order.tobytes(), number) for order in (place, place.max() - place))
        first.setdefault(place.tobytes(), found)
        yield found
