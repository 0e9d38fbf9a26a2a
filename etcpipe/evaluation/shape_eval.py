"""The effect of shaping on a classifier: unprepared, augmented, and trained on shaped flows.

clean_trained   fits to clean flows judge shaped flows
augmented       fits to clean flows and to flows of other shaping strengths judge shaped flows
adaptive        fits to flows of the same shaping judge them, which shows what information remains

Only the last one tells what a shaping hides; the first one tells what it breaks. Judged captures
were never fitted, neither clean nor shaped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from etcpipe.dataset import Dataset, Input, Recording, read
from etcpipe.evaluation import evaluate
from etcpipe.evaluation.evaluate import rounded
from etcpipe.shaping import Shaper, Shaping, parse
from etcpipe.shaping.shaper import packets_wanted
from etcpipe.training.held_out import OnStep, Side, deal_folds, sides_of
from etcpipe.training.learner import Learner

Score = Callable[[Dataset], float]

COLUMNS = ("clean_trained", "augmented", "adaptive")


@dataclass(frozen=True)
class Reading:
    """How flows are read again for each shaping; see dataset.read()."""

    recordings: Sequence[Recording]
    settings: Input
    mask: str
    views: tuple[str, ...] = ()
    seed: int = 1

    def shaped(self, shaping: Shaping | None) -> tuple[Dataset, dict[str, float]]:
        """Return the flows under a shaping (None: unshaped), and its overhead."""
        first_n, wait_s = self.settings.first_n, self.settings.wait_s
        more = Input(packets_wanted(first_n), self.settings.count, wait_s)
        shaper = Shaper(shaping, first_n, wait_s, self.seed, self.mask)
        dataset = read(
            self.recordings, more, views=self.views, mask=self.mask, depth=first_n, change=shaper
        )
        return dataset, shaper.overhead()


def measure(
    reading: Reading,
    learner: Learner,
    shapings: Sequence[Shaping],
    folds: int = 5,
    on_step: OnStep = lambda what, done, total: None,
    of_model: Score | None = None,
    columns: Sequence[str] = COLUMNS,
) -> dict[str, Any]:
    """Return macro-F1 of the columns for each shaping, with intervals and overheads.

    Args:
        of_model: returns the macro-F1 of a model file on shaped flows, a further column.
        columns: which of COLUMNS; all but the first fit anew for each shaping.

    Raises:
        UsageError: the data cannot be split by capture.
        CaptureError: a capture cannot be read.
    """
    on_step("clean", 0, len(shapings) + 1)
    clean, _ = reading.shaped(None)
    fold = deal_folds(clean, folds, reading.seed)
    task = _Task(learner, clean, sides_of(clean, fold, "capture"), reading.seed)
    fitted = task.fits([clean], "clean")
    rows = {}
    for i, shaping in enumerate(shapings):
        on_step(shaping.text, i + 1, len(shapings) + 1)
        attacked, overhead = reading.shaped(shaping)
        found: dict[str, Any] = {
            "overhead": {name: rounded(part) for name, part in overhead.items()}
        }
        if "clean_trained" in columns:
            found["clean_trained"] = task.judge(fitted, attacked)
        if "augmented" in columns:
            others = [reading.shaped(parse(text))[0] for text in shaping.others]
            fits = task.fits([clean, *others], f"augmented-{shaping.text}")
            found["augmented"] = task.judge(fits, attacked)
        if "adaptive" in columns:
            fits = task.fits([attacked], f"adaptive-{shaping.text}")
            found["adaptive"] = task.judge(fits, attacked)
        if of_model:
            found["model"] = rounded(of_model(attacked))
        rows[shaping.text] = found
    return {"clean": task.judge(fitted, clean), "shapings": rows}


@dataclass(frozen=True)
class _Task:
    """Folds for all columns: shaping does not change flows, their order or their labels."""

    learner: Learner
    clean: Dataset
    sides: list[Side]
    seed: int

    def fits(self, datasets: Sequence[Dataset], key: str) -> list[Any]:
        """Return a fit for each fold, to the flows of several datasets that it may learn from."""
        parts = [self.learner.rows(dataset) for dataset in datasets]
        return [
            self.learner.fit(
                np.concatenate([rows[side.seen] for rows in parts]),
                np.tile(self.clean.label[side.seen], len(parts)),
                len(self.clean.classes),
                f"shape-{key}-{side.fold}",
            )
            for side in self.sides
        ]

    def judge(self, fitted: Sequence[Any], dataset: Dataset) -> dict[str, Any]:
        """Return macro-F1 and its interval on a dataset of the same flows."""
        rows, said = self.learner.rows(dataset), np.zeros(len(dataset), np.int64)
        for side, fit in zip(self.sides, fitted, strict=True):
            said[side.judged] = fit.scores(rows[side.judged]).argmax(axis=1)
        classes = len(dataset.classes)
        scores = evaluate.score(dataset.label, said, dataset.capture, classes, self.seed)
        return {
            "macro_f1": rounded(scores.macro_f1),
            "macro_f1_interval": [rounded(scores.low), rounded(scores.high)],
        }
