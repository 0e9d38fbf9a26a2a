"""The description of a cascade: its stages in order, and the file format.

    wait_s = 1.0
    latency_ms = 5.0                        # of queue and inference

    [[stage]]
    packets = 1                             # of a flow that the stage waits for
    model = "first.onnx"                    # beside this file, or one that ships
    temperature = 1.3                       # instead of the model's own
    rule = {kind = "threshold", probability = 0.9}

    [[stage]]
    packets = 10
    model = "tenth.onnx"

A flow is answered by the first stage whose rule says that it is sure; the last stage has no rule
and answers every flow that reaches it. docs/cascade.md explains the keys.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import isfinite
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from etcpipe.errors import OutputError, UsageError
from etcpipe.layout import CONSTANTS
from etcpipe.toml_text import check_keys, parse, read, suggestion

SUFFIX = ".toml"
STAGES_MAX = 16
QUEUE_MAX = 1 << 20
LATENCY_MS = 5.0
KINDS = {
    "threshold": ("probability",),
    "per_class": ("probability", "classes"),
    "target": ("share", "probability"),
}


@dataclass(frozen=True)
class Rule:
    """When a stage is sure of an answer, by the calibrated probability of the best class.

    Attributes:
        kind: "threshold", one threshold for all classes; "per_class", one for each class;
            "target", a threshold that moves so that `share` of the flows is unsure.
        probability: answers with at least this probability are sure; above 1 none is. Of
            "per_class" for classes that are not listed, of "target" the initial threshold.
        classes: threshold by class.
        share: of the flows that reach the stage, the part to be passed on.
    """

    kind: str = "threshold"
    probability: float = 0.9
    classes: Mapping[str, float] = field(default_factory=dict)
    share: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"rule kind {self.kind!r}{suggestion(self.kind, tuple(KINDS))}")
        for name, value in (("probability", self.probability), *self.classes.items()):
            _number(value, 0, 2, f"rule: {name}")
        _number(self.share, 0, 1, "rule: share")

    def thresholds(self, classes: Sequence[str]) -> np.ndarray:
        """Return (classes,) float32, the least probability that is sure, by class.

        Raises:
            UsageError: the rule names a class that the model does not have.
        """
        for name in self.classes:
            if name not in classes:
                raise UsageError(
                    f"rule: the model has no class {name!r}{suggestion(name, classes)}"
                )
        return np.array([self.classes.get(name, self.probability) for name in classes], np.float32)


@dataclass(frozen=True)
class Stage:
    """One model at one depth.

    Attributes:
        packets: counted packets that it waits for; a flow that ended, or was silent for the
            cascade's wait_s, is judged by the packets that are there.
        model: a file beside the cascade's file, or the name of a model that ships.
        temperature: scores are divided by it before the softmax; None: that of the model.
        rule: None for the last stage only.
        deadline_ms: the longest time that a row waits for a batch to fill up.
        batch: rows that make a full batch, and the most in one call of the model.
        queue: rows that may wait; flows beyond that keep the answer that they have.
        backlog_ms: work that may wait, at the measured speed of the stage; the more of it
            waits, the fewer flows are passed on to the stage.
    """

    packets: int
    model: str
    temperature: float | None = None
    rule: Rule | None = None
    deadline_ms: float = 1.0
    batch: int = 256
    queue: int = 4096
    backlog_ms: float = 10.0

    def __post_init__(self) -> None:
        _whole(self.packets, 1, CONSTANTS["FIRST_N_MAX"], "packets")
        _whole(self.queue, 1, QUEUE_MAX, "queue")
        _whole(self.batch, 1, self.queue, "batch")
        _number(self.deadline_ms, 0, 60_000, "deadline_ms")
        _number(self.backlog_ms, 0.1, 60_000, "backlog_ms")
        if not isinstance(self.model, str) or not self.model:
            raise UsageError(f"model is {self.model!r}, must be a file or the name of a model")
        if self.temperature is not None:
            _number(self.temperature, 1e-3, 1e3, "temperature")


@dataclass(frozen=True)
class Cascade:
    """Stages in order; none waits for fewer packets than the one before.

    Attributes:
        wait_s: a flow that is silent for this long is answered by the packets that are there.
        early: report the first answer of an unsure flow at once and correct it later (live).
        latency_ms: limit for queueing and inference of an answer; if more flows come than can
            be judged in time, some keep the answer of an earlier stage.
    """

    stages: tuple[Stage, ...]
    wait_s: float = 1.0
    early: bool = True
    latency_ms: float = LATENCY_MS

    def __post_init__(self) -> None:
        _whole(len(self.stages), 1, STAGES_MAX, "number of stages")
        _number(self.wait_s, 1e-3, 86400, "wait_s")
        _number(self.latency_ms, 0.1, 60_000, "latency_ms")
        if not isinstance(self.early, bool):
            raise UsageError(f"early is {self.early!r}, must be true or false")
        for i, stage in enumerate(self.stages):
            last = i + 1 == len(self.stages)
            if last and stage.rule:
                raise UsageError(f"stage {i}: the last stage answers all flows: remove its rule")
            if not last and not stage.rule:
                raise UsageError(f"stage {i}: the rule is missing: when is the stage sure?")
            if not last and self.stages[i + 1].packets < stage.packets:
                raise UsageError(f"stage {i + 1}: waits for fewer packets than the one before")

    @property
    def depths(self) -> tuple[int, ...]:
        """The numbers of packets at which a stage fires, ascending, each once."""
        return tuple(sorted({stage.packets for stage in self.stages}))

    def to_toml(self) -> str:
        """Return the text of the cascade's file."""
        lines = [f"{name} = {_toml_of(getattr(self, name))}" for name in CASCADE_KEYS[:-1]]
        for stage in self.stages:
            lines += ["", "[[stage]]"]
            for name in STAGE_KEYS:
                value = getattr(stage, name)
                if value is not None:
                    lines.append(f"{name} = {_toml_of(value)}")
        return "\n".join(lines) + "\n"

    def save(self, path: str | PathLike[str]) -> None:
        """Write the cascade's file; the models that it names are not touched.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            Path(path).write_text(self.to_toml(), "utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {fspath(path)}: {error.strerror}") from error


CASCADE_KEYS = ("wait_s", "early", "latency_ms", "stage")
STAGE_KEYS = tuple(one.name for one in fields(Stage))


def load(path: str | PathLike[str]) -> Cascade:
    """Return the cascade of a file.

    Raises:
        UsageError: it cannot be read or has a mistake; the message is one line.
    """
    return from_toml(read(Path(path)), fspath(path))


def from_toml(text: str, name: str = "cascade") -> Cascade:
    """Return the cascade that a text describes; `name` names it in messages.

    Raises:
        UsageError: as load().
    """
    document = parse(text, name)
    check_keys(document, CASCADE_KEYS, name)
    tables = document.pop("stage", [])
    if not isinstance(tables, list) or not tables:
        raise UsageError(f"{name}: no stages: begin each with a line [[stage]]")
    stages = tuple(_stage(table, f"{name}: stage {i}") for i, table in enumerate(tables))
    return _made(Cascade, {"stages": stages, **document}, name)


def _stage(table: Any, place: str) -> Stage:
    if not isinstance(table, dict):
        raise UsageError(f"{place}: begin it with a line [[stage]]")
    check_keys(table, STAGE_KEYS, place)
    for key in ("packets", "model"):
        if key not in table:
            raise UsageError(f"{place}: {key} is missing")
    rule = table.get("rule")
    return _made(Stage, table | {"rule": None if rule is None else _rule(rule, place)}, place)


def _rule(table: Any, place: str) -> Rule:
    if not isinstance(table, dict) or "kind" not in table:
        raise UsageError(f'{place}: rule must be as {{kind = "threshold", probability = 0.9}}')
    kind = table["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise UsageError(f"{place}: rule kind {kind!r}{suggestion(str(kind), tuple(KINDS))}")
    check_keys((key for key in table if key != "kind"), KINDS[kind], f"{place}: rule {kind}")
    if not isinstance(table.get("classes", {}), dict):
        raise UsageError(f"{place}: rule: classes must be as {{ssh = 0.8, web = 0.95}}")
    return _made(Rule, table, place)


def _made(kind: type, values: Mapping[str, Any], place: str) -> Any:
    """Return a Rule, Stage or Cascade; its errors are raised with the place in the file."""
    try:
        return kind(**values)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error


def _toml_of(value: Any) -> str:
    if isinstance(value, Rule):
        shown = {"kind": value.kind} | {key: getattr(value, key) for key in KINDS[value.kind]}
        return _toml_of(shown)
    if isinstance(value, Mapping):
        pairs = (f"{_toml_of(key)} = {_toml_of(one)}" for key, one in value.items())
        return "{" + ", ".join(pairs) + "}"
    # a JSON string is a basic string of TOML, except for DEL
    return json.dumps(value).replace("\x7f", "\\u007f")


def _number(value: Any, least: float, most: float, name: str) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not isfinite(value) or not least <= value <= most:
        raise UsageError(f"{name} is {value!r}, must be a number from {least:g} to {most:g}")


def _whole(value: Any, least: int, most: int, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name} is {value!r}, must be a whole number from {least} to {most}")
