"""Training: from labelled flows to a model file.

Calibration, the threshold for "unknown" and all reported scores come from flows whose
captures were held out (etcpipe.held_out); the model that is written is then fitted to all.
"""

import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from etcpipe import evaluate, trees
from etcpipe import train_report as report
from etcpipe.dataset import STATS, Dataset, Input
from etcpipe.errors import ModelError, UsageError
from etcpipe.gpu.inference import open_runner
from etcpipe.gpu.views import MASKS, schema_hash
from etcpipe.held_out import Judged, OnStep, judge
from etcpipe.model import calibrated, is_refused
from etcpipe.model_file import Description

FOLDS = 5


@dataclass(frozen=True)
class Settings:
    """What to train, apart from the data.

    Attributes:
        input: how the dataset's rows were made.
        mask: what the model may not see, a name of gpu.views.MASKS.
        seed: makes folds, fits and intervals repeatable.
        folds: into how many parts the captures are dealt; at most the captures of a class.
    """

    input: Input
    name: str = "model"
    mask: str = "strict"
    seed: int = 1
    folds: int = FOLDS


@dataclass(frozen=True)
class Result:
    """A model file's contents and what was measured on the way.

    Attributes:
        report: JSON-able; the model file carries it as its scores.
        predicted: (flows,) int, the class that each flow was given when held out.
        us_per_flow: inference alone, batches of 1024, CPU time of one thread.
    """

    model: bytes
    report: dict[str, Any]
    predicted: np.ndarray
    us_per_flow: float


def train(
    dataset: Dataset,
    settings: Settings,
    on_step: OnStep = lambda what, done, total: None,
) -> Result:
    """Return a model of gradient boosted trees on the view stats.

    Args:
        dataset: a class named "unknown" holds traffic known to be none of the others.
        on_step: called with what is being done, steps done, steps in all.

    Raises:
        UsageError: settings out of range, or data that cannot be split by capture.
        ModelError: the written file does not answer as the fit does.
    """
    if settings.mask not in MASKS:
        raise UsageError(f"no mask {settings.mask!r}: choose {', '.join(MASKS)}")
    columns = STATS.column_names(settings.mask)
    judged = judge(dataset, columns, settings.folds, settings.seed, on_step)
    cut = _calibrate(judged, dataset)
    rows = dataset.columns(columns)
    ensemble = trees.fit(rows, dataset.label, len(dataset.classes), settings.seed, judged.rounds)
    scores = _report(dataset, settings, judged, cut)
    scores["columns_by_gain"] = report.top_columns(ensemble.gains(), columns)
    description = _describe(dataset, settings, cut, scores)
    model = trees.to_onnx(ensemble, len(columns), description)
    took_us = _check_export(model, ensemble, rows)
    return Result(model, scores, judged.scores.argmax(axis=1), took_us)


@dataclass(frozen=True)
class _Calibration:
    """What turns scores into verdicts, and what it makes of the held-out flows.

    Attributes:
        sure, strange_sure: the best class's probability, 0 where that class is "unknown".
    """

    temperature: float
    threshold: float
    probability: np.ndarray
    right: np.ndarray
    sure: np.ndarray
    strange_sure: np.ndarray


def _calibrate(judged: Judged, dataset: Dataset) -> _Calibration:
    temperature = evaluate.fit_temperature(judged.scores, dataset.label)
    best, probability, sure = _sureness(judged.scores, temperature, dataset.classes)
    _, _, strange_sure = _sureness(judged.strange, temperature, dataset.classes)
    right = best == dataset.label
    threshold = 0.0
    if len(strange_sure):
        threshold = evaluate.choose_threshold(sure[right & (sure > 0)], strange_sure)
    return _Calibration(temperature, threshold, probability, right, sure, strange_sure)


def _sureness(
    scores: np.ndarray, temperature: float, classes: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    probability = calibrated(scores, temperature).max(axis=1, initial=0)
    best = scores.argmax(axis=1)
    return best, probability, probability * ~is_refused(best, probability, classes, 0.0)


def _report(
    dataset: Dataset, settings: Settings, judged: Judged, cut: _Calibration
) -> dict[str, Any]:
    scores = report.on_classes(dataset, judged.scores.argmax(axis=1), settings.seed)
    return scores | {
        "folds": int(judged.fold.max()) + 1,
        "trees": judged.rounds * len(dataset.classes),
        "calibration_error": report.rounded(evaluate.calibration_error(cut.probability, cut.right)),
        "unknown": report.on_unknown(cut.sure, cut.right, cut.strange_sure, cut.threshold),
        "baselines": {
            name: report.rounded(evaluate.macro_f1(confusion))
            for name, confusion in judged.baselines.items()
        },
        "shortcut": report.has_shortcut(judged.baselines["ids_only"]),
    }


def _describe(
    dataset: Dataset, settings: Settings, cut: _Calibration, scores: dict[str, Any]
) -> Description:
    columns = STATS.column_names(settings.mask)
    return Description(
        name=settings.name,
        classes=dataset.classes,
        view=STATS.name,
        columns=columns,
        schema_hash=schema_hash(STATS, settings.input.first_n, settings.mask, columns),
        first_n=settings.input.first_n,
        mask=settings.mask,
        count=settings.input.count,
        wait_s=settings.input.wait_s,
        temperature=cut.temperature,
        threshold=cut.threshold,
        data=dataset.digest(),
        created=_now(),
        scores=scores,
    )


def _check_export(model: bytes, ensemble: trees.Trees, rows: np.ndarray) -> float:
    """Return microseconds a flow of the written model, once its answers are those of the fit.

    Raises:
        ModelError: they differ.
    """
    runner = open_runner(model)
    expected = ensemble.scores(rows)
    scores = runner.infer(rows)
    top = np.sort(expected, axis=1)[:, -2:]
    is_clear = top[:, 1] - top[:, 0] > 1e-4  # float32 sums may swap what is all but equal
    same = scores.argmax(axis=1) == expected.argmax(axis=1)
    if not same[is_clear].all() or not np.allclose(scores, expected, rtol=1e-4, atol=1e-3):
        raise ModelError("the ONNX file does not answer as LightGBM does: report this as a bug")
    batch = np.resize(rows, (1024, rows.shape[1]))
    times = []
    for _ in range(30):
        began = time.thread_time()
        runner.infer(batch)
        times.append(time.thread_time() - began)
    return float(np.median(times)) / len(batch) * 1e6


def _now() -> str:
    """Return the time, or that of SOURCE_DATE_EPOCH for files that come out the same twice."""
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
