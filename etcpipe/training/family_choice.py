"""Chooses the families of a model and their threshold, and measures what they gain."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from etcpipe import families
from etcpipe.errors import UsageError
from etcpipe.evaluation import evaluate
from etcpipe.families import Members
from etcpipe.model import is_refused
from etcpipe.verdict import UNKNOWN

# Families of the lab's kinds (etcpipe/lab/kinds); other kinds belong to no family.
OF_LAB: Members = {
    "https": ("https_page", "https_bulk", "video_hls"),
    "ssh": ("ssh_shell", "ssh_transfer"),
    "vpn": ("openvpn", "wireguard"),
}
# Separates protocol and application in nDPI's labels ("TLS.YouTube").
MASTER = "."


@dataclass(frozen=True)
class Coarse:
    """The most probable families of flows for which no class is probable enough.

    Attributes:
        refused: (flows,) bool, whether no class is probable enough.
        together: (refused flows,) float32, probability of the most probable family.
        right: (refused flows,) bool, whether it is the right family.
    """

    refused: np.ndarray
    together: np.ndarray
    right: np.ndarray


def of_labels(classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the families that follow from the names of labels.

    Labels in nDPI's form ("TLS.YouTube") belong to the family that is named first, kinds of the lab
    to those in OF_LAB. Families of fewer than two classes are useless, and families with the name
    of a class ambiguous: these are left out.
    """
    found: dict[str, list[str]] = {}
    of_kind = {kind: name for name, kinds in OF_LAB.items() for kind in kinds}
    for one in classes:
        master, dot, _ = one.partition(MASTER)
        family = of_kind.get(one) or (master if dot else "")
        if family:
            found.setdefault(family, []).append(one)
    return {
        name: tuple(members)
        for name, members in sorted(found.items())
        if len(members) > 1 and name not in (*classes, UNKNOWN)
    }


def chosen(given: Members | None, classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the given families, or else those of of_labels().

    Raises:
        UsageError: they name classes that do not exist.
    """
    if given is None:
        return of_labels(classes)
    try:
        families.check(given, classes)
    except ValueError as error:
        raise UsageError(f"{error} (the classes are {', '.join(classes)})") from error
    return {name: tuple(members) for name, members in given.items()}


def parsed(texts: Sequence[str]) -> Members | None:
    """Parse families of the form NAME=CLASS,CLASS; None if there are none.

    Raises:
        UsageError: a text has another form.
    """
    found = {}
    for text in texts:
        name, equals, members = text.partition("=")
        if not name or not equals or "" in members.split(","):
            raise UsageError(f"family {text!r} must be written as https=page,download")
        found[name] = tuple(members.split(","))
    return found or None


def coarse(
    probabilities: np.ndarray,
    label: np.ndarray,
    classes: tuple[str, ...],
    threshold: float,
    of: Members,
) -> Coarse:
    """Return the most probable families of flows.

    Args:
        probabilities: (flows, classes) float32, calibrated, of flows that were held out.
        label: (flows,) int, index into classes, -1: a class that is not there.
        threshold: of the classes.
        of: the families.
    """
    most, at = probabilities.max(axis=1, initial=0), probabilities.argmax(axis=1)
    refused = is_refused(at, most, classes, threshold)
    place = families.places(classes, of)
    family, together = families.best(probabilities[refused], place)
    right = np.append(place, -1)[label[refused]] == family  # -1 would index the last one
    return Coarse(refused, together, right)


def choose_threshold(known: Coarse, strange: Coarse, least: float) -> float:
    """Return the threshold of families, chosen as by evaluate.choose_threshold().

    Flows of another family or of none should be refused, whether or not the model knows their
    classes.

    Args:
        strange: of flows whose class the model never saw.
        least: the classes' own threshold: a family is never named on less.
    """
    told = [one.together >= least for one in (known, strange)]
    right = known.together[told[0] & known.right]
    others = (one.together[at & ~one.right] for one, at in zip((known, strange), told, strict=True))
    wrong = np.concatenate([*others])
    if not len(right):
        return 1.0
    return max(evaluate.choose_threshold(right, wrong), least) if len(wrong) else least


def on_families(known: Coarse, strange: Coarse, threshold: float) -> dict[str, Any]:
    """Return what naming families gives, as shares.

    {threshold, refused: flows that no class is sure of, told: flows that a family is said of
    instead, right: of these, strange_wrong: strange flows that are said to be of a family and are
    not}; None where there are no such flows.
    """
    told = known.together >= threshold
    wrong = (strange.together >= threshold) & ~strange.right

    def share(part: int, of: int) -> float | None:
        return round(part / of, 4) if of else None

    return {
        "threshold": round(threshold, 4),
        "refused": share(int(known.refused.sum()), len(known.refused)),
        "told": share(int(told.sum()), len(known.refused)),
        "right": share(int(known.right[told].sum()), int(told.sum())),
        "strange_wrong": share(int(wrong.sum()), len(strange.refused)),
    }
