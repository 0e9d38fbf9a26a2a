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
from etcpipe.model import calibrated
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
        us_per_flow: inference alone, batches of 1024, one thread.
    """

    model: bytes
    report: dict[str, Any]
    us_per_flow: float


def train(
    dataset: Dataset,
    settings: Settings,
    others: Dataset | None = None,
    on_step: OnStep = lambda what, done, total: None,
) -> Result:
    """Return a model of gradient boosted trees on the view stats.

    Args:
        others: flows of classes that the dataset lacks, to measure "unknown" on.
        on_step: called with what is being done, steps done, steps in all.

    Raises:
        UsageError: settings out of range, or data that cannot be split by capture.
        ModelError: the written file does not answer as the fit does.
    """
    if settings.mask not in MASKS:
        raise UsageError(f"no mask {settings.mask!r}: choose {', '.join(MASKS)}")
    columns = STATS.column_names(settings.mask)
    judged = judge(dataset, columns, settings.folds, settings.seed, on_step)
    cut = _calibrate(judged, dataset.label)
    rows = dataset.columns(columns)
    ensemble = trees.fit(rows, dataset.label, len(dataset.classes), settings.seed, judged.rounds)
    scores = _report(dataset, settings, judged, cut)
    scores["columns_by_gain"] = report.top_columns(ensemble.gains(), columns)
    if others is not None:
        given = calibrated(ensemble.scores(others.columns(columns)), cut.temperature)
        scores["unknown"]["others"] = report.on_others(others, given.max(axis=1), cut.threshold)
    description = _describe(dataset, settings, cut, scores)
    model = trees.to_onnx(ensemble, len(columns), description)
    return Result(model, scores, _check_export(model, ensemble, rows))


@dataclass(frozen=True)
class _Calibration:
    """What turns scores into verdicts, and the held-out probabilities that it gives."""

    temperature: float
    threshold: float
    probability: np.ndarray
    right: np.ndarray
    strange: np.ndarray


def _calibrate(judged: Judged, label: np.ndarray) -> _Calibration:
    temperature = evaluate.fit_temperature(judged.scores, label)
    probability = calibrated(judged.scores, temperature).max(axis=1)
    right = judged.scores.argmax(axis=1) == label
    strange, threshold = np.zeros(0, np.float32), 0.0
    if len(judged.strange):
        strange = calibrated(judged.strange, temperature).max(axis=1)
        threshold = evaluate.choose_threshold(probability[right], strange)
    return _Calibration(temperature, threshold, probability, right, strange)


def _report(
    dataset: Dataset, settings: Settings, judged: Judged, cut: _Calibration
) -> dict[str, Any]:
    scores = report.on_classes(dataset, judged.scores.argmax(axis=1), settings.seed)
    return scores | {
        "folds": int(judged.fold.max()) + 1,
        "trees": judged.rounds * len(dataset.classes),
        "calibration_error": report.rounded(evaluate.calibration_error(cut.probability, cut.right)),
        "unknown": report.on_unknown(cut.probability, cut.right, cut.strange, cut.threshold),
        "baselines": {name: report.rounded(f1) for name, f1 in judged.baselines.items()},
        "shortcut": report.has_shortcut(judged.baselines),
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
        began = time.perf_counter()
        runner.infer(batch)
        times.append(time.perf_counter() - began)
    return float(np.median(times)) / len(batch) * 1e6


def _now() -> str:
    """Return the time, or that of SOURCE_DATE_EPOCH for files that come out the same twice."""
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
