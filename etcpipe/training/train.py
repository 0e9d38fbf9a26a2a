"""Training: from labelled flows to a model file.

Calibration, the threshold for "unknown" and all reported scores come from flows whose
captures were held out (etcpipe.training.held_out); the model that is written is then fitted to all.
"""

import os
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from etcpipe import drift, runtime
from etcpipe.dataset import Dataset, Input
from etcpipe.errors import ModelError, UnsupportedError, UsageError
from etcpipe.evaluation import evaluate
from etcpipe.families import Members
from etcpipe.gpu.inference import Runner, open_runner
from etcpipe.gpu.views import MASKS, VIEWS, schema_hash
from etcpipe.model import calibrated, is_refused
from etcpipe.model_file import Description
from etcpipe.training import family_choice, report
from etcpipe.training.fitting import KERNEL_TREES, VIEW_TREES, Fitting
from etcpipe.training.held_out import Judged, OnStep, judge
from etcpipe.training.learner import (
    Fitted,
    KernelTreeLearner,
    Learner,
    TreeLearner,
    ViewTreeLearner,
)

FOLDS = 5
TREES = "lightgbm"
# Flows on which the written file is compared with the fit.
CHECKED_MAX = 10_000


@dataclass(frozen=True)
class Settings:
    """What to train, apart from the data.

    Attributes:
        input: how the dataset's rows were made.
        mask: what the model may not see, a name of gpu.views.MASKS.
        seed: makes folds, fits and intervals repeatable.
        folds: number of parts of the captures; at most the number of captures of a class.
        arch: TREES, KERNEL_TREES, or a name of fitting.VIEW_TREES or zoo.ARCHS.
        fitting: how networks are fitted; trees ignore it.
        split: what two folds never share, a name of dataset.SPLITS.
        families: classes by family; None: by family_choice.of_labels().
    """

    input: Input
    name: str = "model"
    mask: str = "strict"
    seed: int = 1
    folds: int = FOLDS
    arch: str = TREES
    fitting: Fitting = field(default_factory=Fitting)
    split: str = "capture"
    families: Members | None = None


@dataclass(frozen=True)
class Result:
    """The contents of a model file, and the measurements of its training.

    Attributes:
        report: for JSON; the model file carries it as its scores.
        predicted: (flows,) int, the predicted class of each held-out flow; if split by time, of
            the judged flows only.
        us_per_flow: inference alone, in large batches, CPU time of one thread.
        judged: the scores of held-out flows, and those of the baselines.
        gpu_model: another file of the same model, if GPUs need another graph.
    """

    model: bytes
    report: dict[str, Any]
    predicted: np.ndarray
    us_per_flow: float
    judged: Judged
    gpu_model: bytes | None = None


def train(
    dataset: Dataset,
    settings: Settings,
    on_step: OnStep = lambda what, done, total: None,
) -> Result:
    """Return a model: gradient boosted trees on the view stats, or a network of the zoo.

    Args:
        dataset: a class named "unknown" is traffic that belongs to no other class.
        on_step: called with the name of a step, finished steps, and all steps.

    Raises:
        UsageError: settings out of range, or data that cannot be split by capture.
        UnsupportedError: a network is asked for, and PyTorch or the device is not there.
        ModelError: the written file does not answer as the fit does.
    """
    if settings.mask not in MASKS:
        raise UsageError(f"no mask {settings.mask!r}: choose {', '.join(MASKS)}")
    of = family_choice.chosen(settings.families, dataset.classes)
    learner, beside = learners_of(dataset, settings)
    judged = judge(dataset, learner, settings.folds, settings.seed, on_step, beside, settings.split)
    held_out = dataset if judged.kept.all() else dataset.select(judged.kept)
    cut = _calibrate(judged, held_out, of)
    rows = learner.rows(dataset)
    on_step("all captures", 0, 1)
    fitted = learner.fit(
        rows,
        dataset.label,
        len(dataset.classes),
        "all",
        judged.rounds,
        tell=lambda more: on_step(f"all captures: {more}", 0, 1),
    )
    scores = _report(held_out, settings, judged, cut) | learner.facts(fitted, rows)
    probabilities = calibrated(judged.scores, cut.temperature)
    gains = scores.get("columns_by_gain")
    scores["reference"] = drift.reference(
        held_out, probabilities, dataset.classes, cut.threshold, gains
    )
    description = describe(dataset, settings, learner, cut.temperature, cut.threshold, scores)
    description = replace(description, family_threshold=cut.family_threshold)
    model = learner.export(fitted, description)
    took_us = check_export(model, learner, fitted, rows)
    gpu_model = learner.export_for_gpu(fitted, description)
    predicted = judged.scores.argmax(axis=1)
    return Result(model, scores, predicted, took_us, judged, gpu_model)


def learners_of(dataset: Dataset, settings: Settings) -> tuple[Learner, dict[str, Learner]]:
    """Return the learner, and the learners of baselines by name.

    Raises:
        UsageError: the rows were read otherwise than a network needs.
        UnsupportedError: PyTorch or the device is not there.
    """
    trees = TreeLearner(settings.mask, settings.seed)
    if settings.arch == TREES:
        return trees, {}
    if settings.arch == KERNEL_TREES:
        return KernelTreeLearner(settings.mask, settings.seed), {TREES: trees}
    if settings.arch in VIEW_TREES:
        view = VIEW_TREES[settings.arch]
        if dataset.mask != settings.mask:
            raise UsageError(f"the rows were read under mask {dataset.mask}, not {settings.mask}")
        return ViewTreeLearner(view, settings.seed), {TREES: trees}
    try:
        from etcpipe.training.network_learner import learners
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UnsupportedError(
            f"{settings.arch} is trained with PyTorch: {runtime.remedy_for('torch')}"
        ) from error
    learner, others = learners(dataset, settings)
    return learner, {TREES: trees, **others}


@dataclass(frozen=True)
class _Calibration:
    """Temperature and thresholds, and their effect on the held-out flows.

    Attributes:
        family_threshold: as a Description has it.
        on_families: figures of family_choice.on_families(); None without families.
        sure, strange_sure: the best class's probability, 0 where that class is "unknown".
    """

    temperature: float
    threshold: float
    family_threshold: float
    on_families: dict[str, Any] | None
    probability: np.ndarray
    right: np.ndarray
    sure: np.ndarray
    strange_sure: np.ndarray


def _calibrate(judged: Judged, dataset: Dataset, of: Members) -> _Calibration:
    temperature = evaluate.fit_temperature(judged.scores, dataset.label)
    best, probability, sure = _sureness(judged.scores, temperature, dataset.classes)
    _, _, strange_sure = _sureness(judged.strange, temperature, dataset.classes)
    right = best == dataset.label
    threshold = 0.0
    if len(strange_sure):
        threshold = evaluate.choose_threshold(sure[right & (sure > 0)], strange_sure)
    known, strange = (
        family_choice.coarse(calibrated(scores, temperature), label, dataset.classes, threshold, of)
        for scores, label in (
            (judged.scores, dataset.label),
            (judged.strange, judged.strange_label),
        )
    )
    family_threshold = family_choice.choose_threshold(known, strange, threshold)
    return _Calibration(
        temperature,
        threshold,
        family_threshold,
        family_choice.on_families(known, strange, family_threshold) if of else None,
        probability,
        right,
        sure,
        strange_sure,
    )


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
        "arch": settings.arch,
        "split": settings.split,
        "folds": int(judged.fold.max()) + 1,
        "rounds": judged.rounds,
        "calibration_error": evaluate.rounded(
            evaluate.calibration_error(cut.probability, cut.right)
        ),
        "unknown": report.on_unknown(cut.sure, cut.right, cut.strange_sure, cut.threshold),
        "families": cut.on_families,
        **report.on_baselines(dataset, judged, settings.seed),
    }


def describe(
    dataset: Dataset,
    settings: Settings,
    learner: Learner,
    temperature: float,
    threshold: float,
    scores: dict[str, Any],
) -> Description:
    """Return the description for the file of a model that was fitted to a dataset."""
    view, first_n = VIEWS[learner.view], settings.input.first_n
    return Description(
        name=settings.name,
        classes=dataset.classes,
        view=view.name,
        columns=learner.columns,
        schema_hash=schema_hash(view, first_n, settings.mask, learner.columns or None),
        first_n=first_n,
        mask=settings.mask,
        count=settings.input.count,
        wait_s=settings.input.wait_s,
        temperature=temperature,
        threshold=threshold,
        families=family_choice.chosen(settings.families, dataset.classes),
        data=dataset.digest(),
        captures=dataset.short_capture_digests(),
        created=made_at(),
        scores=scores,
    )


def check_export(model: bytes, learner: Learner, fitted: Fitted, rows: np.ndarray) -> float:
    """Check that a model file answers as the fit does; return its microseconds for a flow.

    Raises:
        ModelError: they differ.
    """
    runner = open_runner(model)
    rows = rows[:CHECKED_MAX]
    batches = [rows[i : i + learner.batch] for i in range(0, len(rows), learner.batch)]
    scores = np.concatenate([runner.infer(batch) for batch in batches])
    expected = fitted.scores(rows)
    top = np.sort(expected, axis=1)[:, -2:]
    is_clear = top[:, 1] - top[:, 0] > 1e-4  # rounding may swap nearly equal scores
    same = scores.argmax(axis=1) == expected.argmax(axis=1)
    close = np.isclose(scores, expected, rtol=1e-4, atol=1e-3).all(axis=1)
    if min(same[is_clear].mean() if is_clear.any() else 1, close.mean()) < learner.agreement:
        raise ModelError("the ONNX file does not answer as the fit does: report this as a bug")
    return _us_per_flow(runner, np.resize(rows, (learner.batch, *rows.shape[1:])))


def _us_per_flow(runner: Runner, batch: np.ndarray) -> float:
    """Return the median of 30 calls, or of as many as fit into a second, at least three."""
    times: list[float] = []
    while len(times) < 3 or (len(times) < 30 and sum(times) < 1):
        began = time.thread_time()
        runner.infer(batch)
        times.append(time.thread_time() - began)
    return float(np.median(times)) / len(batch) * 1e6


def made_at() -> str:
    """Return the time, or that of SOURCE_DATE_EPOCH for reproducible files."""
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
