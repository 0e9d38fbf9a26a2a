"""Which families a training gives a model, how sure it must be of one, and what that is worth."""

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

# Of the lab's kinds (etcpipe/lab/kinds); a kind that is not here is alone.
OF_LAB: Members = {
    "https": ("https_page", "https_bulk", "video_hls"),
    "ssh": ("ssh_shell", "ssh_transfer"),
    "vpn": ("openvpn", "wireguard"),
}
# Between a protocol and what it carries, in labels that follow nDPI ("TLS.YouTube").
MASTER = "."


@dataclass(frozen=True)
class Coarse:
    """What could be said of flows that no class is sure of.

    Attributes:
        refused: (flows,) bool, whether no class is.
        together: (refused flows,) float32, probability of the most probable family.
        right: (refused flows,) bool, whether it is the flow's.
    """

    refused: np.ndarray
    together: np.ndarray
    right: np.ndarray


def of_labels(classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the families of a task's labels, as far as the labels tell.

    Labels as nDPI writes them ("TLS.YouTube") are of the family that is named first; kinds of the
    lab are of those in OF_LAB. A family of fewer than two classes tells nothing, and one that is
    called as a class would be mistaken for it: these are left out.
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
    """Return the families that are given, or else those that the labels tell.

    Raises:
        UsageError: those that are given are not of these classes.
    """
    if given is None:
        return of_labels(classes)
    try:
        families.check(given, classes)
    except ValueError as error:
        raise UsageError(f"{error} (the classes are {', '.join(classes)})") from error
    return {name: tuple(members) for name, members in given.items()}


def parsed(texts: Sequence[str]) -> Members | None:
    """Return families that are written NAME=CLASS,CLASS; None of no text.

    Raises:
        UsageError: a text is written otherwise.
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
    """Return what families could be said of flows.

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
    right = np.append(place, -1)[label[refused]] == family  # -1 stands for the last one
    return Coarse(refused, together, right)


def choose_threshold(known: Coarse, strange: Coarse, least: float) -> float:
    """Return how probable a family's classes must be together, as evaluate.choose_threshold().

    Flows that are of another family, or of none, are to be refused, those of classes that nobody
    showed the model as well as others.

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
