"""The candidates for the stages of a cascade: models trained here at each depth, or model files.

Models that are trained here are judged on held-out captures, as in etcpipe.training.train, and then
fitted to all of them. A model file is judged as it is, on captures that it was not trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from etcpipe import model as models
from etcpipe import model_bench
from etcpipe.cascade.choose import Candidate
from etcpipe.cascade.rows import DepthRows, rows_for
from etcpipe.dataset import Dataset
from etcpipe.errors import UsageError
from etcpipe.evaluation.model_eval import check_unseen
from etcpipe.gpu.views import VIEWS
from etcpipe.model import Model
from etcpipe.training import train
from etcpipe.training.fitting import KERNEL_TREES, VIEW_TREES, Fitting
from etcpipe.training.held_out import OnStep, deal_folds, sides_of
from etcpipe.training.learner import Learner, Tell
from etcpipe.zoo import ARCHS

# Flows in a call, and seconds, for measuring the cost of a model.
COST_BATCH, COST_S = 256, 0.2
# The architectures that can be trained.
NAMES = (train.TREES, KERNEL_TREES, *VIEW_TREES, *ARCHS)


@dataclass(frozen=True)
class Wanted:
    """One of the MODELS on the command line.

    Attributes:
        arch: one of NAMES; "" for a file.
        depths: at which it is trained; for a file, the depth of its model.
        model: the model of a file.
    """

    arch: str
    depths: tuple[int, ...]
    model: Model | None = None
    path: Path | None = None

    @property
    def view(self) -> str:
        """The view that it reads."""
        if self.model:
            return self.model.view.name
        if self.arch in ARCHS:
            return ARCHS[self.arch].view
        return VIEW_TREES.get(self.arch, "stats")


@dataclass(frozen=True)
class Made:
    """A candidate and its file.

    Attributes:
        contents: of the new model file; None for a file that was given.
        path: of the file that was given.
    """

    candidate: Candidate
    contents: bytes | None = None
    path: Path | None = None

    @property
    def file_name(self) -> str:
        """The name for the file of a model that was trained here."""
        return f"{self.candidate.model}-{self.candidate.packets}.onnx"


@dataclass(frozen=True)
class Training:
    """How candidates are trained.

    Attributes:
        folds: number of parts into which the captures are divided.
    """

    mask: str = "strict"
    seed: int = 1
    folds: int = 3
    fitting: Fitting = field(default_factory=Fitting)


def parse(text: str, depths: tuple[int, ...]) -> Wanted:
    """Parse NAME, NAME@N,N,... or FILE.

    Args:
        depths: for a name without depths of its own.

    Raises:
        UsageError: neither a name to train nor a model file.
        ModelError: the file cannot be used.
    """
    name, _, own = text.partition("@")
    if name in NAMES:
        return Wanted(name, parse_depths(own) if own else depths)
    path = Path(text)
    if not path.exists() and path.suffix != ".onnx":
        raise UsageError(f"no model {text}: give a file, or a name to train: {', '.join(NAMES)}")
    model = models.load(path)
    return Wanted("", (model.first_n,), model, path)


def parse_depths(text: str) -> tuple[int, ...]:
    """Return numbers of packets that are separated by commas, ascending.

    Raises:
        UsageError: they are not.
    """
    try:
        depths = tuple(int(one) for one in text.split(","))
    except ValueError:
        depths = ()
    if not depths or list(depths) != sorted(set(depths)) or depths[0] < 1:
        raise UsageError(f"depths {text!r}: give ascending numbers of packets, as 1,3,5,10")
    return depths


def make(wanted: Sequence[Wanted], rows: DepthRows, how: Training, on_step: OnStep) -> list[Made]:
    """Return all candidates, each with scores on flows that it was not fitted to.

    Raises:
        UsageError: a model file wants other rows or has other classes, was trained on these
            flows, or the data cannot be split by capture.
    """
    each = [(one, depth) for one in wanted for depth in one.depths]
    made: list[Made] = []
    for i, (one, depth) in enumerate(each):
        tell = _teller(on_step, i, len(each))
        tell(f"{one.arch or one.path} at {depth} packets")
        if one.model:
            made.append(_judged(one, rows, how.mask))
        else:
            made.append(_trained(one.arch, depth, rows, how, tell))
    return made


def _teller(on_step: OnStep, done: int, total: int) -> Tell:
    return lambda what: on_step(what, done, total)


def _judged(wanted: Wanted, rows: DepthRows, mask: str) -> Made:
    model, dataset = wanted.model, rows.datasets[wanted.depths[0]]
    assert model is not None
    if (model.count, model.wait_s, model.mask) != (rows.input.count, rows.input.wait_s, mask):
        raise UsageError(
            f"{model} wants --count {model.count} --wait {model.wait_s:g} --mask {model.mask}"
        )
    if model.classes != dataset.classes:
        raise UsageError(f"{model} has other classes than the data, or than another model")
    check_unseen(model, dataset)
    probabilities = model.infer(rows_for(model, dataset)).astype(np.float64)
    scores = np.log(np.clip(probabilities, 1e-30, 1)) * model.temperature
    us = model_bench.measure(model, (COST_BATCH,), COST_S)[0].cpu_us_per_flow
    return Made(Candidate(model.name, model.first_n, scores, us), path=wanted.path)


def _trained(arch: str, depth: int, rows: DepthRows, how: Training, tell: Tell) -> Made:
    dataset = rows.datasets[depth]
    settings = train.Settings(
        replace(rows.input, first_n=depth),
        f"{arch}-{depth}",
        how.mask,
        how.seed,
        how.folds,
        arch,
        how.fitting,
    )
    learner, _ = train.learners_of(dataset, settings)
    scores, rounds = _held_out(learner, dataset, settings, f"{arch} at {depth} packets", tell)
    every = learner.rows(dataset)
    fitted = learner.fit(every, dataset.label, len(dataset.classes), f"all-{depth}", rounds)
    temperature = train.evaluate.fit_temperature(scores, dataset.label)
    facts = {"arch": arch, "folds": how.folds, "rounds": rounds, **learner.facts(fitted, every)}
    description = train.describe(dataset, settings, learner, temperature, 0.0, facts)
    contents = learner.export(fitted, description)
    us = train.check_export(contents, learner, fitted, every)
    return Made(Candidate(arch, depth, scores, us), contents)


def _held_out(
    learner: Learner,
    dataset: Dataset,
    settings: train.Settings,
    what: str,
    tell: Tell,
) -> tuple[np.ndarray, int]:
    """Return (flows, classes) scores by fits that did not see a flow's capture, and rounds."""
    fold = deal_folds(dataset, settings.folds, settings.seed)
    sides = sides_of(dataset, fold, "capture")
    rows, classes = learner.rows(dataset), len(dataset.classes)
    scores, rounds = np.zeros((len(rows), classes)), []
    for side in sides:
        tell(f"{what}: fold {side.fold + 1} of {len(sides)}")
        stop = fold[side.seen] == side.stop if side.stop is not None else None
        key = f"{settings.name}-{side.fold}"
        fitted = learner.fit(rows[side.seen], dataset.label[side.seen], classes, key, stop=stop)
        scores[side.judged] = fitted.scores(rows[side.judged])
        rounds.append(fitted.rounds)
    return scores, int(np.median(rounds))


def views_of(wanted: Sequence[Wanted]) -> list[str]:
    """Return the views that the models read."""
    return [name for name in VIEWS if any(one.view == name for one in wanted)]
