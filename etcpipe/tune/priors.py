"""The prior: which columns separate the classes, before anything was measured.

A search starts from the prior and relies on it at first; measurements outweigh it more with each
evaluation.
"""

from dataclasses import dataclass

import numpy as np

from etcpipe.errors import UsageError
from etcpipe.tune.space import Choice, Space
from etcpipe.tune.told import Told

# Mutual information is estimated by nearest neighbours; more flows take longer for little gain.
_ROWS_MAX = 4000
# Columns without information are drawn too, with this weight relative to the best one.
_FLOOR = 0.1


def mutual_information(rows: np.ndarray, label: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return (columns,) float64, mutual information of each column and the label, in nats.

    Args:
        rows: (flows, columns) float32, at the greatest depth, as CATO does.

    Raises:
        UsageError: one class only, or no column differs between flows.
    """
    from sklearn.feature_selection import mutual_info_classif

    if len(np.unique(label)) < 2:
        raise UsageError("one class only: a search needs flows of two classes or more")
    varies = np.ptp(rows, axis=0) > 0 if len(rows) else np.zeros(rows.shape[1], bool)
    if not varies.any():
        raise UsageError("no feature is left: every column is the same for all flows")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(rows))[:_ROWS_MAX]
    found = np.zeros(rows.shape[1])
    found[varies] = mutual_info_classif(
        rows[np.ix_(chosen, np.flatnonzero(varies))], label[chosen], random_state=seed
    )
    return found


@dataclass(frozen=True)
class Prior:
    """The prior of a space.

    Attributes:
        information: (columns,) float64, of mutual_information().
        told: information of columns at each depth; None: not known.
    """

    space: Space
    information: np.ndarray
    told: Told | None = None

    def top(self, number: int) -> tuple[int, ...]:
        """Return the columns of the highest information; ten of them are CATO's MI10."""
        order = np.argsort(-self.information, kind="stable")
        return tuple(sorted(order[:number].tolist()))

    def sparse(self, rng: np.random.Generator) -> Choice:
        """Draw a choice, rather with few columns and packets than many.

        The number of columns and the depth are log-uniform, so that the cheap end of the front
        is explored as closely as the expensive end; informative columns are drawn more often.
        """
        columns = len(self.space.columns)
        number = min(int(np.exp(rng.uniform(0, np.log(columns + 1)))), columns)
        weight = self.information + _FLOOR * max(float(self.information.max()), 1e-9)
        bits = np.zeros(columns, bool)
        bits[rng.choice(columns, number, replace=False, p=weight / weight.sum())] = True
        depth = int(np.exp(rng.uniform(0, np.log(self.space.depth_max + 1))))
        return self.space.choice(bits, depth, *self._model_and_wait(rng))

    def uniform(self, rng: np.random.Generator) -> Choice:
        """Draw a choice uniformly."""
        bits = np.zeros(len(self.space.columns), bool)
        while not bits.any():
            bits = rng.random(len(bits)) < 0.5
        depth = int(rng.integers(1, self.space.depth_max + 1))
        return self.space.choice(bits, depth, *self._model_and_wait(rng))

    def _model_and_wait(self, rng: np.random.Generator) -> tuple[int, int]:
        models, waits = len(self.space.models), len(self.space.waits_s)
        return int(rng.integers(models)), int(rng.integers(waits))

    def log_weight(self, choices: list[Choice]) -> np.ndarray:
        """Return (choices,) float64, the log density of sparse() up to a constant.

        Number and depth are log-uniform; the columns of a choice count by their information.
        """
        weight = np.log(self.information + _FLOOR * max(float(self.information.max()), 1e-9))
        weight -= weight.max()
        on = self.space.places(choices)[:, : len(weight)]
        number, depth = on.sum(axis=1), np.array([one.depth for one in choices])
        return on @ weight / number - np.log(number) - np.log(depth)
