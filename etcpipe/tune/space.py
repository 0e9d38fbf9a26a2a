"""What a search can choose: columns of a view, packets of a flow, a waiting time, and a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, product
from math import log
from typing import Any

import numpy as np

from etcpipe.errors import UsageError

DEPTH_MAX = 50  # as in CATO; for deeper rows a verdict comes too late to be of use


@dataclass(frozen=True)
class ModelKind:
    """A kind of model with its hyperparameters."""

    kind: str
    parameters: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        return self.kind + "".join(f" {name} {value}" for name, value in self.parameters)

    def as_dict(self) -> dict[str, Any]:
        """Return the parameters by name."""
        return dict(self.parameters)


# In order of their cost in serving; the search treats the position as a number.
MODELS = (
    ModelKind("tree", (("max_depth", 5),)),
    ModelKind("tree", (("max_depth", 10),)),
    ModelKind("tree", (("max_depth", 15),)),
    ModelKind("boosted", (("rounds", 3),)),
    ModelKind("boosted", (("rounds", 8),)),
    ModelKind("boosted", (("rounds", 20),)),
)


@dataclass(frozen=True, order=True)
class Choice:
    """One point of a space.

    Attributes:
        features: numbers of columns, ascending; one at least.
        depth: packets of a flow.
        model: number of the model.
        wait: number of the waiting time.
    """

    features: tuple[int, ...]
    depth: int
    model: int = 0
    wait: int = 0


@dataclass(frozen=True)
class Space:
    """All choices.

    Attributes:
        columns: each can be on or off.
        depth_max: the greatest depth; the smallest is 1.
        models: to choose from.
        waits_s: waiting times, ascending: a flow that is silent for so long is judged as it is.
    """

    columns: tuple[str, ...]
    depth_max: int = DEPTH_MAX
    models: tuple[ModelKind, ...] = MODELS
    waits_s: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.columns:
            raise UsageError("no feature is left to choose from: give data in which one differs")
        if self.depth_max < 1 or not self.models or not self.waits_s:
            raise UsageError("a search needs one packet, one model and one waiting time at least")

    def size(self) -> int:
        """Return the number of choices."""
        others = self.depth_max * len(self.models) * len(self.waits_s)
        return (2 ** len(self.columns) - 1) * others

    def names(self, choice: Choice) -> tuple[str, ...]:
        """Return a choice's columns."""
        return tuple(self.columns[i] for i in choice.features)

    def wait_s(self, choice: Choice) -> float:
        """Return a choice's waiting time."""
        return self.waits_s[choice.wait]

    def everything(self, depth: int | None = None, model: int | None = None) -> Choice:
        """Return all columns at a depth; by default the greatest one, with the dearest model.

        It has the longest waiting time.
        """
        return Choice(
            tuple(range(len(self.columns))),
            depth or self.depth_max,
            len(self.models) - 1 if model is None else model,
            len(self.waits_s) - 1,
        )

    def choice(self, bits: np.ndarray, depth: int, model: int = 0, wait: int = 0) -> Choice:
        """Return a choice with its numbers clipped into range; at least one of bits is on."""
        return Choice(
            tuple(np.flatnonzero(bits).tolist()),
            int(np.clip(depth, 1, self.depth_max)),
            int(np.clip(model, 0, len(self.models) - 1)),
            int(np.clip(wait, 0, len(self.waits_s) - 1)),
        )

    def bits(self, choice: Choice) -> np.ndarray:
        """Return (columns,) bool, those that are on."""
        on = np.zeros(len(self.columns), bool)
        on[list(choice.features)] = True
        return on

    def places(self, choices: Sequence[Choice]) -> np.ndarray:
        """Return (choices, dimensions) float64 within 0 .. 1, the input of a surrogate.

        Columns, depth, model, and the waiting time if there is more than one. Depth is
        logarithmic: 2 packets instead of 1 change more than 41 instead of 40.
        """
        columns = len(self.columns)
        found = np.zeros((len(choices), columns + (3 if len(self.waits_s) > 1 else 2)))
        on = [len(one.features) for one in choices]
        rows = np.repeat(np.arange(len(choices)), on)
        found[rows, np.fromiter(chain.from_iterable(one.features for one in choices), int)] = 1
        depth, model, wait = (
            np.array([(one.depth, one.model, one.wait) for one in choices], float).reshape(-1, 3).T
        )
        found[:, columns] = np.log(depth) / log(max(self.depth_max, 2))
        found[:, columns + 1] = model / max(len(self.models) - 1, 1)
        if len(self.waits_s) > 1:
            found[:, columns + 2] = wait / (len(self.waits_s) - 1)
        return found

    def all_choices(self) -> Iterator[Choice]:
        """Yield every choice; for spaces of some thousand choices."""
        for number in range(1, 2 ** len(self.columns)):
            features = tuple(i for i in range(len(self.columns)) if number >> i & 1)
            depths, models = range(1, self.depth_max + 1), range(len(self.models))
            for depth, model, wait in product(depths, models, range(len(self.waits_s))):
                yield Choice(features, depth, model, wait)

    def neighbours(self, choice: Choice) -> list[Choice]:
        """Return the choices that differ in one column, or by one step in depth, model or wait."""
        on = self.bits(choice)
        found = []
        for i in range(len(on)):
            flipped = on.copy()
            flipped[i] = not flipped[i]
            if flipped.any():
                found.append(self.choice(flipped, choice.depth, choice.model, choice.wait))
        for step in (-8, -4, -2, -1, 1, 2, 4, 8):
            found.append(self.choice(on, choice.depth + step, choice.model, choice.wait))
        for step in (-1, 1):
            found.append(self.choice(on, choice.depth, choice.model + step, choice.wait))
            found.append(self.choice(on, choice.depth, choice.model, choice.wait + step))
        return [one for one in found if one != choice]

    def changed(self, choice: Choice, rng: np.random.Generator) -> Choice:
        """Return a choice with up to three columns flipped or swapped, and often another depth."""
        on = self.bits(choice)
        flips = rng.choice(len(on), min(int(rng.integers(0, 4)), len(on)), replace=False)
        on[flips] = ~on[flips]
        if not on.any():
            on[rng.integers(len(on))] = True
        depth, model, wait = choice.depth, choice.model, choice.wait
        if rng.random() < 0.6:
            depth = round(depth * np.exp(rng.normal(0, 0.3))) + int(rng.integers(-2, 3))
        if rng.random() < 0.3:
            model += int(rng.integers(-1, 2))
        if len(self.waits_s) > 1 and rng.random() < 0.3:
            wait += int(rng.integers(-1, 2))
        return self.choice(on, depth, model, wait)
