"""Scores a model file on labelled flows that it was not trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from etcpipe.dataset import STATS, Dataset, Input, Recording, read
from etcpipe.errors import UsageError
from etcpipe.evaluation import evaluate, occlusion
from etcpipe.evaluation.evaluate import rounded
from etcpipe.model import Model, is_refused
from etcpipe.training import family_choice
from etcpipe.verdict import UNKNOWN

BINS = 15


def check_unseen(model: Model, dataset: Dataset) -> None:
    """Check that a model was not trained on these flows, or on others of their captures.

    The rows of a capture change with the depth at which it is read; the digest of the file does
    not. Older model files, which do not name their captures, are compared by rows alone.

    Raises:
        UsageError: it was.
    """
    if model.description.data == dataset.digest():
        seen = "these flows"
    elif captures := _captures_seen(model, dataset):
        more = f" and {len(captures) - 1} more of these captures" if len(captures) > 1 else ""
        seen = f"{captures[0]}{more}"
    else:
        return
    raise UsageError(
        f"{model} was trained on {seen}: `etcpipe model show` has its scores on "
        "captures held out, or give others"
    )


def _captures_seen(model: Model, dataset: Dataset) -> list[str]:
    """Return the captures of a dataset that a model was trained on."""
    known = set(model.description.captures)
    if not known:
        return []
    return [name for digest, name in dataset.capture_digests().items() if digest[:16] in known]


def evaluate_model(model: Model, dataset: Dataset, seed: int = 1) -> dict[str, Any]:
    """Return the scores of a model on labelled flows, as plain numbers and text.

    Scores are those of the best class, whatever its probability; the effect of refusing is in
    "unknown". Flows of classes that the model does not know count only there.

    Raises:
        UsageError: the flows were read otherwise than the model's input, or none has a
            label that the model knows.
    """
    probabilities = model.infer(model_rows(model, dataset))
    names = [name for name in dataset.classes if name in model.classes and name != UNKNOWN]
    if not names:
        raise UsageError(
            f"no label of the data is a class of {model}: its classes are "
            f"{', '.join(model.classes)}"
        )
    index = [model.classes.index(name) if name in names else -1 for name in dataset.classes]
    label = np.array(index)[dataset.label]
    known = label >= 0
    best, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    refused = is_refused(best, sure, model.classes, model.threshold)
    right = best == label
    named = sure * ~is_refused(best, sure, model.classes, 0.0)  # "unknown" does not count as sure
    return {
        "model": str(model),
        "flows": int(known.sum()),
        "captures": len(np.unique(dataset.capture[known])),
        "strange_classes": [name for name in dataset.classes if name not in names],
        **_on_classes(model.classes, label[known], best[known], dataset.capture[known], seed),
        "calibration_error": rounded(evaluate.calibration_error(sure[known], right[known], BINS)),
        "reliability": _reliability(sure[known], right[known]),
        "unknown": _on_refusing(named, refused, right, known, model.threshold),
        "families": _on_families(model, probabilities, label),
    }


def _on_families(model: Model, probabilities: np.ndarray, label: np.ndarray) -> Any:
    """Return the figures of family_choice.on_families(); None without families."""
    of = model.labels.families
    if not of:
        return None
    known, strange = (
        family_choice.coarse(
            probabilities[chosen], label[chosen], model.classes, model.threshold, of
        )
        for chosen in (label >= 0, label < 0)
    )
    return family_choice.on_families(known, strange, model.family_threshold)


def f1_at_depths(
    model: Model, recordings: Sequence[Recording], depths: Sequence[int], seed: int = 1
) -> dict[int, dict[str, Any]]:
    """Return macro-F1 and its interval when the model sees fewer packets of the same flows.

    Raises:
        UsageError: a depth is greater than the model's.
        CaptureError: a capture cannot be read.
    """
    found = {}
    for depth in depths:
        if not 1 <= depth <= model.first_n:
            raise UsageError(f"depth {depth}: {model} looks at 1 to {model.first_n} packets")
        report = evaluate_model(model, read_for(model, recordings, depth), seed)
        found[depth] = {name: report[name] for name in ("macro_f1", "macro_f1_interval")}
    return found


def without_parts(model: Model, dataset: Dataset, seed: int = 1) -> dict[str, dict[str, Any]]:
    """Return what each part of the input contributes, see etcpipe.evaluation.occlusion.

    Raises:
        UsageError: the flows were read otherwise than the model's input.
    """
    index = [model.classes.index(n) if n in model.classes else -1 for n in dataset.classes]
    label = np.array(index)[dataset.label]
    known = label >= 0
    rows = model_rows(model, dataset)[known]
    return occlusion.measure(model, rows, label[known], dataset.capture[known], seed)


def read_for(model: Model, recordings: Sequence[Recording], depth: int | None = None) -> Dataset:
    """Return labelled flows, read as a model needs them."""
    settings = Input(model.first_n, model.count, model.wait_s)
    return read(recordings, settings, views=[model.view.name], mask=model.mask, depth=depth)


def model_rows(model: Model, dataset: Dataset) -> np.ndarray:
    """Return (flows, ...), the input of a model.

    Raises:
        UsageError: the flows were read otherwise than the model's input.
    """
    if model.view.name == STATS.name:
        return dataset.columns(model.columns)
    if model.view.name in dataset.views and dataset.mask != model.mask:
        raise UsageError(f"the rows are under mask {dataset.mask}, {model} wants {model.mask}")
    return dataset.rows(model.view.name)


def _on_classes(
    classes: Sequence[str], label: np.ndarray, best: np.ndarray, capture: np.ndarray, seed: int
) -> dict[str, Any]:
    scores = evaluate.score(label, best, capture, len(classes), seed)
    confusion = scores.confusion
    true, said, right = confusion.sum(axis=1), confusion.sum(axis=0), np.diagonal(confusion)
    f1, recall = evaluate.class_f1(confusion), right / np.maximum(true, 1)
    return {
        "macro_f1": rounded(scores.macro_f1),
        "macro_f1_interval": [rounded(scores.low), rounded(scores.high)],
        "weighted_f1": rounded((f1 * true).sum() / true.sum()),
        "accuracy": rounded(scores.accuracy),
        "balanced_accuracy": rounded(recall[true > 0].mean()),
        "classes": {
            name: {
                "flows": int(true[i]),
                "captures": len(np.unique(capture[label == i])),
                "precision": rounded(right[i] / max(said[i], 1)),
                "recall": rounded(recall[i]),
                "f1": rounded(f1[i]),
            }
            for i, name in enumerate(classes)
        },
        "confusion": confusion.tolist(),
    }


def _reliability(sure: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """Return the share of right answers in each bin of probability."""
    bin_of = np.minimum((sure * BINS).astype(int), BINS - 1)
    return [
        {
            "flows": int((bin_of == i).sum()),
            "probability": rounded(sure[bin_of == i].mean()),
            "right": rounded(right[bin_of == i].mean()),
        }
        for i in np.unique(bin_of)
    ]


def _on_refusing(
    sure: np.ndarray, refused: np.ndarray, right: np.ndarray, known: np.ndarray, threshold: float
) -> dict[str, Any]:
    """Return the effect of "unknown" on known flows and on flows of unknown classes."""
    kept, strange = known & ~refused, ~known

    def share(of: np.ndarray, among: np.ndarray) -> float | None:
        return rounded(of[among].mean()) if among.any() else None

    return {
        "threshold": rounded(threshold),
        "known_refused": share(refused, known),
        "right_of_kept": share(right, kept),
        "strange_flows": int(strange.sum()),
        "strange_refused": share(refused, strange),
        "area_under_roc": rounded(evaluate.area_under_roc(sure[known], sure[strange]))
        if strange.any()
        else None,
    }
