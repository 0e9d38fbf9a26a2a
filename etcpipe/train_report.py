"""The report of a training: plain numbers and text, as the model file carries them."""

from typing import Any

import numpy as np

from etcpipe import evaluate
from etcpipe.dataset import Dataset


def on_classes(dataset: Dataset, predicted: np.ndarray, seed: int) -> dict[str, Any]:
    classes, label = dataset.classes, dataset.label
    scores = evaluate.score(label, predicted, dataset.capture, len(classes), seed)
    f1 = evaluate.class_f1(scores.confusion)
    return {
        "flows": len(dataset),
        "captures": len(dataset.captures),
        "unlabelled": dataset.unlabelled,
        "split": "capture",
        "seed": seed,
        "macro_f1": rounded(scores.macro_f1),
        "macro_f1_interval": [rounded(scores.low), rounded(scores.high)],
        "accuracy": rounded(scores.accuracy),
        "classes": {
            name: {
                "flows": int((label == i).sum()),
                "captures": len(np.unique(dataset.capture[label == i])),
                "f1": rounded(f1[i]),
            }
            for i, name in enumerate(classes)
        },
        "confusion": scores.confusion.tolist(),
    }


def on_unknown(
    probability: np.ndarray, right: np.ndarray, strange: np.ndarray, threshold: float
) -> dict[str, Any]:
    known = probability >= threshold
    return {
        "threshold": rounded(threshold),
        "right_kept": rounded(known[right].mean()),
        "wrong_refused": rounded((~known)[~right].mean()) if (~right).any() else None,
        "strange_refused": rounded((strange < threshold).mean()) if len(strange) else None,
        "area_under_roc": rounded(evaluate.area_under_roc(probability, strange))
        if len(strange)
        else None,
    }


def on_others(others: Dataset, probability: np.ndarray, threshold: float) -> dict[str, Any]:
    return {
        name: {
            "flows": int((others.label == i).sum()),
            "refused": rounded((probability[others.label == i] < threshold).mean()),
        }
        for i, name in enumerate(others.classes)
    }


def has_shortcut(baselines: dict[str, float]) -> bool:
    """Whether what the masks hide (ports, TTL, window) would tell the class by itself."""
    return baselines["ids_only"] > baselines["majority"] + 0.05


def top_columns(gains: np.ndarray, columns: tuple[str, ...]) -> dict[str, float]:
    return {columns[i]: rounded(gains[i]) for i in np.argsort(-gains)[:10]}


def rounded(value: float) -> float:
    return round(float(value), 4)
