"""Drift: does traffic still look as it did in a model's training, and which class changed?

A reference is made from held-out flows of the training and stored in the model file: the
distributions of the most important statistics, over all flows and by predicted class, the
confidence of the model, and the frequency of each predicted class.

Distances are population stability indices (PSI): below 0.1 means no change, above 0.25 a large one.
Something counts as changed if its PSI is above 0.1 and above what chance explains for so few flows.
Before retraining, look at the flows (`--save-unknown`), then train and compare.

Sources: Siddiqi, Credit Risk Scorecards, 2006 (PSI); Luxemburk and Hynek, MFWDD, TMA 2023
(distances of features, weighted by what a model makes of them).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from etcpipe.dataset import Dataset
from etcpipe.errors import UsageError
from etcpipe.evaluation.evaluate import rounded
from etcpipe.model import Model, is_refused
from etcpipe.verdict import UNKNOWN

# Used if a model does not tell its most important statistics.
USUAL: tuple[str, ...] = (
    *("dur", "proto", "s_pkt_cnt", "d_pkt_cnt", "s_iat_mean", "d_iat_mean"),
    *("s_bytes_mean", "d_bytes_mean", "s_bytes_max", "d_bytes_max", "s_bytes_std", "d_bytes_std"),
)
BINS = 10
MOVED = 0.1
FLOWS_MIN = 30  # flows of a class that are needed for a result
_CHANCE_DRAWS = 200


def reference(
    dataset: Dataset,
    probabilities: np.ndarray,
    classes: Sequence[str],
    threshold: float,
    gains: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the reference of flows, for JSON.

    Args:
        probabilities: (flows, classes), calibrated.
        gains: the model's most important columns with their weights; None: USUAL.
    """
    columns = tuple(gains) if gains else USUAL
    rows = dataset.columns(columns)
    edges = {name: _edges(rows[:, i]) for i, name in enumerate(columns)}
    return {
        "gains": {name: float(gains[name]) if gains else 1 / len(columns) for name in columns},
        "edges": {name: one.tolist() for name, one in edges.items()},
        **_counts(rows, edges, probabilities, tuple(classes), threshold),
    }


def of_model(model: Model, dataset: Dataset, like: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the histograms of a model on flows, in the bins of a reference or in new bins."""
    from etcpipe.evaluation.model_eval import model_rows

    probabilities = model.infer(model_rows(model, dataset))
    if like is None:
        gains = model.description.scores.get("columns_by_gain")
        return reference(dataset, probabilities, model.classes, model.threshold, gains)
    edges = {name: np.array(one) for name, one in like["edges"].items()}
    rows = dataset.columns(tuple(edges))
    return _counts(rows, edges, probabilities, model.classes, model.threshold)


def reference_of(model: Model) -> dict[str, Any]:
    """Return the reference in a model file.

    Raises:
        UsageError: it has none.
    """
    found = model.description.scores.get("reference")
    if found is None:
        raise UsageError(
            f"{model} carries no reference: train it again, or give flows of a good time "
            "with --reference"
        )
    return found


def compare(before: Mapping[str, Any], now: Mapping[str, Any], seed: int = 1) -> dict[str, Any]:
    """Return the distances of two references with the same bins, over all and by class.

    Raises:
        UsageError: there are too few flows.
    """
    if now["flows"] < FLOWS_MIN:
        raise UsageError(f"{now['flows']} flows say nothing of a drift: give {FLOWS_MIN} or more")
    rng = np.random.default_rng(seed)
    classes = {
        name: _compare_class(before, now, name, rng)
        for name in before["classes"]
        if name in now["classes"]
    }
    mix = [[one["classes"][name]["flows"] for name in before["classes"]] for one in (before, now)]
    report = {
        "flows": now["flows"],
        "reference_flows": before["flows"],
        "mix": _distance(mix[0], mix[1], rng),
        "confidence": _distance(before["confidence"], now["confidence"], rng),
        "columns": {
            name: _distance(counts, now["columns"][name], rng)
            for name, counts in before["columns"].items()
        },
        "classes": classes,
    }
    whole = [report["mix"], report["confidence"], *report["columns"].values()]
    moved = [name for name, one in classes.items() if one["moved"]]
    return report | {"moved": any(one["moved"] for one in whole) or bool(moved), "which": moved}


def _compare_class(
    before: Mapping[str, Any], now: Mapping[str, Any], name: str, rng: np.random.Generator
) -> dict[str, Any]:
    old, new = before["classes"][name], now["classes"][name]
    found: dict[str, Any] = {
        "share_before": rounded(old["flows"] / max(before["flows"], 1)),
        "share_now": rounded(new["flows"] / max(now["flows"], 1)),
        "flows": new["flows"],
    }
    if min(old["flows"], new["flows"]) < FLOWS_MIN:
        return found | {"moved": False, "too_few": True}
    columns = {
        column: _distance(counts, new["columns"][column], rng)
        for column, counts in old["columns"].items()
    }
    weights = before["gains"]
    total = sum(weights[column] * one["psi"] for column, one in columns.items())
    limit = sum(weights[column] * one["chance"] for column, one in columns.items())
    psi, chance = total / sum(weights.values()), limit / sum(weights.values())
    confidence = _distance(old["confidence"], new["confidence"], rng)
    return found | {
        "psi": rounded(psi),
        "confidence": confidence,
        "columns": columns,
        "moved": bool(psi > max(MOVED, chance)) or confidence["moved"],
    }


def _counts(
    rows: np.ndarray,
    edges: Mapping[str, np.ndarray],
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    threshold: float,
) -> dict[str, Any]:
    """Return the number of flows in each bin, over all and by predicted class."""
    best, sure = probabilities.argmax(axis=1), probabilities.max(axis=1, initial=0)
    said = np.where(is_refused(best, sure, classes, threshold), -1, best)
    bins = {
        name: np.searchsorted(one, rows[:, i], "right")
        for i, (name, one) in enumerate(edges.items())
    }
    confidence = np.minimum((sure * BINS).astype(int), BINS - 1)

    def of(chosen: np.ndarray) -> dict[str, Any]:
        return {
            "flows": int(chosen.sum()),
            "confidence": np.bincount(confidence[chosen], minlength=BINS).tolist(),
            "columns": {
                name: np.bincount(one[chosen], minlength=len(edges[name]) + 1).tolist()
                for name, one in bins.items()
            },
        }

    names = [(i, name) for i, name in enumerate(classes) if name != UNKNOWN] + [(-1, UNKNOWN)]
    whole = of(np.ones(len(rows), bool))
    return whole | {"classes": {name: of(said == i) for i, name in names}}


def _edges(values: np.ndarray) -> np.ndarray:
    """Return the edges of bins with about equally many flows; fewer bins for few values."""
    return np.unique(np.quantile(values.astype(np.float64), np.arange(1, BINS) / BINS))


def _distance(
    before: Sequence[int], now: Sequence[int], rng: np.random.Generator
) -> dict[str, Any]:
    """Return the PSI of two histograms, and the value that chance exceeds in 1 % of cases."""
    old, new = np.asarray(before, float), np.asarray(now, float)
    psi = float(_psi(old, new[None])[0])
    both = (old + new) / max(old.sum() + new.sum(), 1)
    drawn = [rng.multinomial(int(side.sum()), both, _CHANCE_DRAWS) for side in (old, new)]
    chance = float(np.quantile(_psi(drawn[0], drawn[1]), 0.99))
    return {
        "psi": rounded(psi),
        "chance": rounded(chance),
        "moved": bool(psi > max(MOVED, chance)),
    }


def _psi(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return (n,) indices of rows of counts; half a flow is added to each bin."""
    old, new = np.atleast_2d(before) + 0.5, now + 0.5
    old, new = old / old.sum(axis=1, keepdims=True), new / new.sum(axis=1, keepdims=True)
    return ((new - old) * np.log(new / old)).sum(axis=1)
