"""Opens cascades: loads their models and checks that these fit together."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from etcpipe import model as models
from etcpipe.batch import rows_of
from etcpipe.cascade import bundle, stages
from etcpipe.cascade.escalation import Decide, decider
from etcpipe.cascade.stages import LATENCY_MS, Cascade, Stage
from etcpipe.cascade.workers import Judge
from etcpipe.errors import ModelError, UsageError
from etcpipe.gpu.inference import is_trees
from etcpipe.model import Model


@dataclass(frozen=True)
class Serving:
    """A stage with its model, as a Runtime takes it.

    Attributes:
        judge: the model; see etcpipe.model.Model.answers().
        classes: names of its labels, the same in all stages.
        name: name@digest of the model.
        decide: tells which answers are sure; None: by the rule of the stage.
        latency_ms: as of the cascade.
    """

    stage: Stage
    judge: Judge
    classes: tuple[str, ...]
    name: str
    decide: Decide | None = None
    latency_ms: float = LATENCY_MS

    def decider(self) -> Decide:
        """Return the function that tells which answers are sure; all are without a rule."""
        if self.decide:
            return self.decide
        if self.stage.rule is None:
            return lambda label, probability: np.ones(len(label), bool)
        return decider(self.stage.rule, self.classes)


class CascadeModel:
    """A cascade with the attributes of a model that the pipeline uses.

    Attributes:
        classes: of all stages.
        labels: that verdicts may name, as Model.labels, of the last stage.
        first_n: packets of a flow that the last stage waits for.
        raw_len: bytes of each packet that the stages need.
        models: name@digest of the model of each stage.
        last: the model of the last stage.
        views: names of the views that the stages read.
        depths: packets that each stage waits for.
        first_file: contents of the first stage's model file.
    """

    def __init__(
        self,
        cascade: Cascade,
        loaded: list[Model],
        judges: Mapping[int, Judge],
        name: str = "",
        first_file: bytes = b"",
    ):
        """Check that models fit together, and combine them.

        Args:
            judges: by stage, models that answer faster than a thread wakes up: trees.
            name: of the cascade; by default the names of its models.

        Raises:
            ModelError: they do not fit each other, or their stages.
        """
        last = loaded[-1]
        for i, (stage, model) in enumerate(zip(cascade.stages, loaded, strict=True)):
            _check(i, stage, model, last)
        self.cascade = cascade
        self.classes, self.labels = last.classes, last.labels
        self.mask, self.count = last.mask, last.count
        self.wait_s = cascade.wait_s
        self.first_n = cascade.stages[-1].packets
        self.raw_len = max(model.raw_len for model in loaded)
        self.models = tuple(map(str, loaded))
        self.last, self.views = last, tuple(sorted({model.view.name for model in loaded}))
        self.depths = tuple(stage.packets for stage in cascade.stages)
        self.name = name or "+".join(model.name for model in loaded)
        self.digest = last.digest
        self.engine = ", ".join(dict.fromkeys(model.engine for model in loaded))
        self.device = "cpu"  # where flows are regrouped; each stage has a device of its own
        self.quick = frozenset(judges)
        self.first_file = first_file
        self._loaded = loaded
        self._judges = [judges.get(i, model.answers) for i, model in enumerate(loaded)]

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}"

    @property
    def stage_models(self) -> tuple[Model, ...]:
        """The model of each stage."""
        return tuple(self._loaded)

    def servings(self) -> list[Serving]:
        """Return the stages as a Runtime takes them."""
        return [
            Serving(stage, judge, self.labels, str(model), latency_ms=self.cascade.latency_ms)
            for stage, judge, model in zip(
                self.cascade.stages, self._judges, self._loaded, strict=True
            )
        ]

    def warm_up(self) -> None:
        """Let each stage judge an empty row, as the first call takes a hundred times as long."""
        nothing = rows_of(1, self.first_n, self.raw_len)
        for judge in self._judges:
            judge(nothing)

    def early_depths(self, first_n: int) -> tuple[int, ...]:
        """Return the depths below first_n, at which flows need early rows."""
        return tuple(depth for depth in self.cascade.depths if depth < first_n)


def load(path: str | PathLike[str], device: str = "cpu") -> CascadeModel:
    """Return the cascade of a file, with its models.

    Args:
        path: a cascade.toml with its models beside it, a model file that holds the whole
            cascade, or the name of one that ships.
        device: where inference runs, as for etcpipe.model.load(); trees stay on the CPU.

    Raises:
        UsageError: the file has a mistake.
        ModelError: a model is missing or damaged, or they do not fit each other.
    """
    is_shipped = str(path) in {file.stem for file in models.list_shipped()}
    if is_shipped or Path(path).suffix == bundle.SUFFIX:
        if not (is_shipped or Path(path).exists()):
            raise ModelError(f"cannot read cascade {path}: no such file")
        found = load_inside(path, device)
        if not isinstance(found, CascadeModel):
            raise ModelError(f"model {path}: holds no cascade: give its cascade.toml")
        return found
    cascade = stages.load(path)
    with _named(path):
        paths = files(cascade, Path(path).parent)
        contents = [models.read(file) for file in paths]
        loaded = [
            models.opened(one, f"model {file}", device=device)
            for one, file in zip(contents, paths, strict=True)
        ]
        return _served(cascade, loaded, contents)


@contextmanager
def _named(place: str | PathLike[str]) -> Iterator[None]:
    """Put the name of a cascade's file, or of a part of it, in front of an error message."""
    try:
        yield
    except (ModelError, UsageError) as error:
        raise type(error)(f"{place}: {error}") from error


def load_inside(path: str | PathLike[str] | None, device: str = "cpu") -> CascadeModel | Model:
    """Return the cascade that a model file holds, or its model if it holds none.

    Args:
        path: a file, or the name of a model that ships; None for the default one.

    Raises:
        ModelError: it is missing or damaged, or its models do not fit each other.
    """
    cascade, loaded, contents = _inside(path, device)
    return _served(cascade, loaded, contents, loaded[-1].name) if cascade else loaded[-1]


def stages_of(path: str | PathLike[str] | None) -> Cascade:
    """Return the stages without loading models, of a file for load() or load_inside().

    Raises:
        UsageError, ModelError: as load(), or the file holds no cascade.
    """
    if path is not None and Path(path).suffix == stages.SUFFIX:
        return stages.load(path)
    file = models.find(path)
    name = f"model {file}"
    held = bundle.held(models.opened(models.read(file), name).metadata, name)
    if held is None:
        raise ModelError(f"{name}: holds no cascade")
    return held[0]


def load_stages(path: str | PathLike[str], device: str = "cpu") -> CascadeModel:
    """Return a file's content as a cascade; a plain model becomes a cascade of one stage.

    Args:
        path: a cascade.toml, a model file, or the name of a model that ships.

    Raises:
        UsageError, ModelError: as load().
    """
    if Path(path).suffix == stages.SUFFIX:
        return load(path, device)
    cascade, loaded, contents = _inside(path, device)
    last = loaded[-1]
    alone = Cascade((Stage(last.first_n, last.name),), wait_s=last.wait_s)
    return _served(cascade or alone, loaded, contents, last.name)


def _inside(
    path: str | PathLike[str] | None, device: str
) -> tuple[Cascade | None, list[Model], list[bytes]]:
    """Return the cascade in a model file (or None), its models, and their contents."""
    file = models.find(path)
    name, contents = f"model {file}", models.read(file)
    last = models.opened(contents, name, device=device)
    held = bundle.held(last.metadata, name)
    if held is None:
        return None, [last], [contents]
    cascade, early = held
    loaded = [
        models.opened(one, f"{name}: stage {i}", device=device) for i, one in enumerate(early)
    ]
    return cascade, [*loaded, last], [*early, contents]


def _served(
    cascade: Cascade, loaded: list[Model], contents: list[bytes], name: str = ""
) -> CascadeModel:
    """Return a cascade of opened models, adjusted to their stages."""
    for stage, model in zip(cascade.stages, loaded, strict=True):
        if stage.temperature is not None:
            model.temperature = stage.temperature
        if stage.rule:
            model.answer_all()  # the rule decides about unsure answers
    judges = {
        i: model.answers
        for i, (model, one) in enumerate(zip(loaded, contents, strict=True))
        if is_trees(one)
    }
    return CascadeModel(cascade, loaded, judges, name, contents[0])


def files(cascade: Cascade, folder: Path) -> list[Path]:
    """Return the model file of each stage.

    Raises:
        ModelError: one is missing.
    """
    found = []
    for i, stage in enumerate(cascade.stages):
        with _named(f"stage {i}"):
            found.append(models.find(_beside(folder, stage.model)))
    return found


def _beside(folder: Path, name: str) -> str:
    beside = folder / name
    return str(beside) if beside.exists() else name


def _check(i: int, stage: Stage, model: Model, last: Model) -> None:
    for what in ("classes", "mask", "count"):
        if getattr(model, what) != getattr(last, what):
            raise ModelError(
                f"stage {i}: model {model.name} differs in {what} from {last.name}, the last "
                "stage's: train them on the same data with the same settings"
            )
    if stage.packets > model.first_n:
        raise ModelError(
            f"stage {i}: waits for {stage.packets} packets, model {model.name} looks at "
            f"{model.first_n}"
        )
    try:
        if stage.rule:
            stage.rule.thresholds(model.classes)
    except UsageError as error:
        raise UsageError(f"stage {i}: {error}") from error
