"""The report of a training, in the form in which the model file carries it."""

from typing import Any

import numpy as np

from etcpipe.dataset import Dataset
from etcpipe.evaluation import evaluate
from etcpipe.evaluation.evaluate import rounded
from etcpipe.training.held_out import Judged


def on_classes(dataset: Dataset, predicted: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the scores of held-out flows, over all and by class."""
    classes, label = dataset.classes, dataset.label
    scores = evaluate.score(label, predicted, dataset.capture, len(classes), seed)
    f1 = evaluate.class_f1(scores.confusion)
    return {
        "flows": len(dataset),
        "captures": len(dataset.captures),
        "unlabelled": dataset.unlabelled,
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
    sure: np.ndarray, right: np.ndarray, strange: np.ndarray, threshold: float
) -> dict[str, Any]:
    """Return what the threshold for "unknown" gains and costs.

    Args:
        sure: (flows,) probability of the best class, 0 where that is "unknown".
        right: (flows,) bool.
        strange: as sure, of flows whose class the fit never saw.
    """
    named = sure > 0
    kept = sure >= threshold

    def share(of: np.ndarray, among: np.ndarray) -> float | None:
        return rounded(of[among].mean()) if among.any() else None

    return {
        "threshold": rounded(threshold),
        "right_kept": share(kept, right & named),
        "wrong_refused": share(~kept, ~right & named),
        "strange_refused": rounded((strange < threshold).mean()) if len(strange) else None,
        "area_under_roc": rounded(evaluate.area_under_roc(sure[named], strange))
        if len(strange)
        else None,
    }


def on_baselines(dataset: Dataset, judged: Judged, seed: int) -> dict[str, Any]:
    """Return the macro-F1 of simple classifiers, and how far the model is above each."""
    label, classes, captures = dataset.label, len(dataset.classes), dataset.capture
    ours = judged.scores.argmax(axis=1)
    confusions = {
        name: evaluate.confusion_matrix(label, said, classes)
        for name, said in judged.baselines.items()
    }
    above = {
        name: evaluate.difference(label, ours, said, captures, classes, seed)
        for name, said in judged.baselines.items()
    }
    return {
        "baselines": {
            name: rounded(evaluate.macro_f1(confusion)) for name, confusion in confusions.items()
        },
        "above_baselines": {
            name: [rounded(value) for value in values] for name, values in above.items()
        },
        "shortcut": evaluate.is_above_chance(confusions["ids_only"]),
    }
