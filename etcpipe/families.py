"""Families: classes that a verdict may name together if the model cannot separate them.

A model can be sure of HTTPS but unsure whether it carries a page or a download. If no class is
probable enough for a verdict, but the classes of a family together are, the verdict names the
family: `https` instead of `https_page`, as nDPI reports TLS if it cannot report TLS.YouTube.

A class is in at most one family. Families are stored in the model file (etcpipe/model_file.py); a
training gets them from etcpipe/training/family_choice.py.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from etcpipe.verdict import UNKNOWN

Members = Mapping[str, Sequence[str]]


class LabelNames(tuple[str, ...]):
    """The names that a label may have: a model's classes, then its families.

    Attributes:
        families: classes of each family, by its name.
    """

    families: Members

    def __new__(cls, classes: Sequence[str], families: Members | None = None) -> "LabelNames":
        """Return names; without families, the classes alone."""
        names = super().__new__(cls, (*classes, *(families or {})))
        names.families = dict(families or {})
        return names

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes alone, in the order of the model's scores."""
        return self[: len(self) - len(self.families)]

    @cached_property
    def family_of(self) -> tuple[str | None, ...]:
        """The family of each label; a family belongs to itself."""
        of_class = {one: name for name, members in self.families.items() for one in members}
        return (*(of_class.get(one) for one in self.classes), *self.families)


def names_of(labels: Sequence[str]) -> LabelNames:
    """Return labels as LabelNames, by default without families."""
    return labels if isinstance(labels, LabelNames) else LabelNames(labels)


def check(families: Members, classes: Sequence[str]) -> None:
    """Check that families consist of existing classes, each in one family only.

    Raises:
        ValueError: they are not; the message says which.
    """
    seen: set[str] = set()
    for name, members in families.items():
        if not name or name in (*classes, UNKNOWN):
            raise ValueError(f"family {name!r} is called as a class")
        for one in members:
            if one not in classes or one == UNKNOWN:
                raise ValueError(f"family {name!r} has a class {one!r} that is not there")
            if one in seen:
                raise ValueError(f"class {one!r} is in two families")
            seen.add(one)


def places(classes: Sequence[str], families: Members) -> np.ndarray:
    """Return (classes,) int32, the place of each class's family in families, -1: it has none."""
    place = np.full(len(classes), -1, np.int32)
    for i, members in enumerate(families.values()):
        place[[classes.index(one) for one in members]] = i
    return place


def best(probabilities: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each flow's most probable family and the probability of its classes together.

    Args:
        probabilities: (flows, classes) float32.
        place: (classes,) int, see places().

    Returns:
        (flows,) int and (flows,) float32; 0 and 0 where there are no families.
    """
    together = np.zeros((len(probabilities), max(place.max(initial=-1) + 1, 1)), np.float32)
    for i, family in enumerate(place.tolist()):
        if family >= 0:
            together[:, family] += probabilities[:, i]
    return together.argmax(axis=1), together.max(axis=1)
