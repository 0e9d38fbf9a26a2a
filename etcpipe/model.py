"""Models: loaded from a file, checked, ready to give verdicts."""

import logging
import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from etcpipe import families
from etcpipe.batch import FlowBatch
from etcpipe.errors import ModelError, UnsupportedError
from etcpipe.gpu.inference import ROWS_AT_ONCE, Runner, open_runner
from etcpipe.gpu.inference_trees import Judge, TreesRunner
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import VIEWS, View, compute
from etcpipe.model_file import (
    DESCRIPTION_KEY,
    DIGEST_KEY,
    Description,
    check_input,
    checked_digest,
    parse_description,
)
from etcpipe.verdict import (
    EVENT_VERDICT,
    SOURCE_DEGRADED,
    SOURCE_MODEL,
    SOURCE_TIMEOUT,
    SOURCE_UNKNOWN,
    UNKNOWN,
    Answers,
    VerdictBatch,
)

if TYPE_CHECKING:
    from etcpipe.gpu.scorer_gpu import Scorer
    from etcpipe.shares import Shares

log = logging.getLogger(__name__)

DEFAULT = "default"
SHIPPED = Path(__file__).parent / "models"
_SOURCE_OF_REASON = np.array(
    # enum ready_reason: depth, idle, end, evicted (cut short by etcpipe, not by the traffic)
    [SOURCE_MODEL, SOURCE_TIMEOUT, SOURCE_MODEL, SOURCE_DEGRADED],
    np.uint8,
)


class Model:
    """A loaded model, with the fields of its Description as attributes.

    A class named "unknown" was trained on traffic that belongs to no other class. A verdict for it
    is the same "unknown" as a verdict whose probability is below the threshold.

    Attributes:
        labels: that its verdicts may name: classes, then families (etcpipe/families.py).
        family_of: (classes,) int32, index of each class's family, -1: none.
        shares: also stores the probabilities of all classes; None: they are dropped.
    """

    def __init__(self, description: Description, digest: str, runner: Runner) -> None:
        self.description = description
        self.digest = digest
        self.name = description.name
        self.classes = description.classes
        self.view: View = VIEWS[description.view]
        self.columns = description.columns
        self.schema_hash = description.schema_hash
        self.first_n = description.first_n
        self.raw_len = self.view.raw_len
        self.mask = description.mask
        self.count = description.count
        self.wait_s = description.wait_s
        self.temperature = description.temperature
        self.threshold = description.threshold
        self.labels = families.LabelNames(description.classes, description.families)
        self.family_of = families.places(description.classes, description.families)
        self.family_threshold = description.family_threshold if description.families else np.inf
        self.shares: Shares | None = None
        self.models = (f"{description.name}@{digest}",)  # more of a cascade
        self.depths = (description.first_n,)
        self._runner = runner
        self._judge = Judge(self, runner) if isinstance(runner, TreesRunner) else None

    def __str__(self) -> str:
        return self.models[0]

    @property
    def stage_models(self) -> "tuple[Model, ...]":
        """The models that answer: only this one; a cascade has several."""
        return (self,)

    @property
    def device(self) -> str:
        """Where inference runs: "cpu" or "gpu"."""
        return self._runner.device

    @property
    def engine(self) -> str:
        """Name and version of the engine."""
        return self._runner.engine

    @property
    def metadata(self) -> Mapping[str, str]:
        """The texts of the file's metadata, by key."""
        return self._runner.metadata

    def rows(self, flows: FlowBatch) -> np.ndarray:
        """Return the model's input, one row for each flow."""
        return compute(self.view, flows, self.first_n, self.columns)

    def infer(self, rows: np.ndarray) -> np.ndarray:
        """Return (flows, classes) float32, calibrated probabilities that add up to 1."""
        parts = [
            self._runner.infer(rows[first : first + ROWS_AT_ONCE])
            for first in range(0, len(rows), ROWS_AT_ONCE)
        ]
        none = np.zeros((0, len(self.classes)), np.float32)
        return calibrated(np.concatenate([none, *parts]), self.temperature)

    def scorer(self, regroup: Regroup) -> "Scorer | None":
        """Return the scorer for flows that come without packets; None: infer(rows(flows)) is used.

        Flows come without packets if the GPU that regrouped them runs the model too, or if the
        kernel gathered the features.
        """
        try:
            return regroup.scorer(self._runner, self.view, self.first_n, self.columns)
        except UnsupportedError as error:
            log.warning("flows take the way through the host: %s", error)
            return None

    def verdicts(
        self,
        flows: FlowBatch,
        records: np.ndarray,
        start_ns: int | None = None,
        scorer: "Scorer | None" = None,
    ) -> VerdictBatch:
        """Return the verdicts of the model on complete flows.

        Args:
            records: (flows,) FLOW_STATE of the same flows.
            start_ns: the time by the packets' clock, for the queueing times; None offline.
            scorer: whose next scores are those of these flows, see scorer().
        """
        answers, source = self.answers(flows, scorer), sources(flows)
        said_by = self.labels, self.models, self.first_n
        return verdicts_of(flows, records, start_ns, answers, source, *said_by)

    def answers(self, flows: FlowBatch, scorer: "Scorer | None" = None) -> Answers:
        """Return the answers of the model on complete flows; see verdicts()."""
        if self._judge and not scorer:
            return self._judge(flows)
        began = time.perf_counter_ns()
        present = flows.packets["present"] != 0
        has_input = present.any(axis=1)
        if scorer:
            scores = scorer.take(len(flows))
            has_input &= ~np.isnan(scores).any(axis=1)  # nan if the GPU failed
            probabilities = calibrated(np.nan_to_num(scores), self.temperature)
        else:
            probabilities = self.infer(self.rows(flows))
        took_ns = time.perf_counter_ns() - began
        if self.shares is not None:
            self.shares.add(flows.flow_id, np.where(has_input[:, None], probabilities, 0))
        best, second, probability = top_two(probabilities)
        probability[~has_input] = 0
        is_sure = ~is_refused(best, probability, self.classes, self.threshold)
        family, together = families.best(probabilities, self.family_of)
        is_coarse = has_input & ~is_sure & (together >= self.family_threshold)
        label = np.where(is_coarse, len(self.classes) + family, np.where(is_sure, best, -1))
        runner_up = np.where(is_coarse, best, second)
        return Answers(
            label=np.where(has_input, label, -1).astype(np.int16),
            probability=np.where(is_coarse, together, probability),
            runner_up=np.where(has_input, runner_up, -1).astype(np.int16),
            packets_used=np.minimum(present.sum(axis=1), self.first_n).astype(np.uint16),
            took_ns=took_ns,
        )

    def answer_all(self) -> None:
        """Always name the best class: the caller decides which answers are sure."""
        self.threshold, self.family_threshold = 0.0, np.inf


def verdicts_on(
    flows: FlowBatch, records: np.ndarray, start_ns: int | None, **columns: Any
) -> VerdictBatch:
    """Return the verdicts on flows, with their waiting and queueing times.

    Args:
        start_ns: the packets' clock when they were judged; None offline.
        columns: the other columns of a VerdictBatch.
    """
    ready = flows.ready_ns.astype(np.int64)
    queued = np.zeros_like(ready) if start_ns is None else start_ns - ready
    return VerdictBatch(
        flows=flows,
        records=records,
        event=np.full(len(flows), EVENT_VERDICT, np.uint8),
        wait_ns=waits_ns(flows),
        queue_ns=np.maximum(queued, 0).astype(np.uint64),
        **columns,
    )


def verdicts_of(
    flows: FlowBatch,
    records: np.ndarray,
    start_ns: int | None,
    answers: Answers,
    source: np.ndarray,
    classes: tuple[str, ...],
    models: tuple[str, ...],
    depth: int,
) -> VerdictBatch:
    """Return the answers of a first stage as verdicts, see verdicts_on().

    Args:
        source: (flows,) uint8, index into SOURCES.
        depth: packets that the stage waits for.
    """
    n = len(flows)
    return verdicts_on(
        flows,
        records,
        start_ns,
        classes=classes,
        models=models,
        label=answers.label,
        probability=answers.probability,
        runner_up=answers.runner_up,
        stage=np.zeros(n, np.uint8),
        depth=np.full(n, depth, np.uint16),
        packets_used=answers.packets_used,
        source=source,
        infer_ns=np.full(n, answers.took_ns // max(n, 1), np.uint64),
    )


def sources(flows: FlowBatch) -> np.ndarray:
    """Return (flows,) uint8, index into SOURCES by the reason why each row was complete."""
    has_input = (flows.packets["present"] != 0).any(axis=1)
    by_reason = _SOURCE_OF_REASON[flows.reason]
    return np.where(has_input, by_reason, SOURCE_UNKNOWN).astype(np.uint8)


def waits_ns(flows: FlowBatch) -> np.ndarray:
    """Return (flows,) uint64, from each flow's first counted packet to its complete row."""
    present = flows.packets["present"] != 0
    first = flows.packets["timestamp_ns"][np.arange(len(flows)), present.argmax(axis=1)]
    waited = flows.ready_ns.astype(np.int64) - first.astype(np.int64)
    return np.where(present.any(axis=1), np.maximum(waited, 0), 0).astype(np.uint64)


def is_refused(
    best: np.ndarray, probability: np.ndarray, classes: tuple[str, ...], threshold: float
) -> np.ndarray:
    """Return (flows,) bool, where the answer is "unknown"."""
    is_unknown = best == classes.index(UNKNOWN) if UNKNOWN in classes else False
    return (probability < threshold) | is_unknown


def calibrated(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return softmax(scores / temperature) by row, float32.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """
    scaled = scores / np.float32(temperature)
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def top_two(probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the best class, the second best, and the best one's probability."""
    flow = np.arange(len(probabilities))
    best = probabilities.argmax(axis=1)
    probability = probabilities[flow, best]
    others = probabilities.copy()
    others[flow, best] = -1
    return best, others.argmax(axis=1), probability


def load(path: str | PathLike[str] | None = None, threads: int = 1, device: str = "cpu") -> Model:
    """Return the model in a file.

    Args:
        path: a file, or the name of a model that ships; None for the default one.
        threads: CPU threads that inference may use.
        device: where inference runs, see etcpipe.gpu.inference.open_runner.

    Raises:
        ModelError: the file is missing, damaged, foreign, or made for other inputs.
        UnsupportedError: the device is not available.
    """
    file = find(path)
    return opened(read(file), f"model {file}", threads, device)


def opened(contents: bytes, name: str, threads: int = 1, device: str = "cpu") -> Model:
    """Return the model in the contents of a file; `name` names it in messages.

    Raises:
        ModelError, UnsupportedError: as load().
    """
    try:
        runner = open_runner(contents, threads, device)
        text = runner.metadata.get(DESCRIPTION_KEY)
        if text is None:
            raise ModelError("made by another program: it says nothing about its input")
        digest = checked_digest(contents, runner.metadata.get(DIGEST_KEY, ""))
        description = parse_description(text)
        check_input(description, runner)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error.__cause__
    except UnicodeDecodeError as error:  # its description is not text
        raise ModelError(f"{name}: damaged: make or copy it again") from error
    return Model(description, digest[:12], runner)


def find(path: str | PathLike[str] | None) -> Path:
    """Return the model file for a path or name; see load().

    Raises:
        ModelError: there is none.
    """
    name = DEFAULT if path is None else str(path)
    file = Path(name)
    if path is not None and file.exists():
        return file
    shipped = SHIPPED / f"{name}.onnx"
    if file.name == name and shipped.exists():
        return shipped
    names = ", ".join(sorted(model.stem for model in list_shipped())) or "none"
    raise ModelError(f"no model {name}: give a .onnx file or one that ships ({names})")


def list_shipped() -> list[Path]:
    """Return the files of the models that come with etcpipe."""
    return sorted(SHIPPED.glob("*.onnx"), key=lambda file: file.stem)


def read(file: Path) -> bytes:
    """Return the contents of a model file.

    Raises:
        ModelError: it cannot be read, or is empty.
    """
    try:
        contents = file.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read model {file}: {error.strerror}") from error
    if not contents:
        raise ModelError(f"model {file}: the file is empty")
    return contents
