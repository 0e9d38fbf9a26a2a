"""Classify captures: the pipeline over files, each flow reported once it has ended."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np

from etcpipe import pipeline
from etcpipe.batch import FlowBatch
from etcpipe.capture import Capture
from etcpipe.cascade.runtime import Runtime
from etcpipe.cascade.serving import CascadeModel
from etcpipe.errors import UsageError
from etcpipe.gpu.regroup import Regroup
from etcpipe.layout import CONSTANTS, FLOW_KEY, FLOW_STATE, PACKET_FIELDS, READY_REASONS
from etcpipe.model_choice import AnyModel, depth_for, load, model_of_point, regroup_for
from etcpipe.verdict import EVENT_VERDICT, SOURCE_UNKNOWN, VerdictBatch

Progress = Callable[[int, int | None], None]

# What is kept of a verdict until its flow ends; 41 bytes a flow.
KEPT = np.dtype(
    [
        ("wait_ns", "<u8"),
        ("infer_ns", "<u8"),
        ("ready_ns", "<u8"),
        ("probability", "<f4"),
        ("label", "<i2"),
        ("runner_up", "<i2"),
        ("packets_used", "<u2"),
        ("lost", "<u2"),
        ("vlan", "<u2"),
        ("stage", "u1"),
        ("source", "u1"),
        ("reason", "u1"),
    ]
)


class Verdicts:
    """Verdicts by flow id, kept until their flows end. Ids are dense, so this is an array."""

    def __init__(self) -> None:
        self._kept = np.zeros(4096, KEPT)
        self._decided = np.zeros(4096, bool)

    def add(self, verdicts: VerdictBatch) -> None:
        """Keep a batch of verdicts."""
        ids = verdicts.flows.flow_id.astype(np.int64)
        self._reserve(int(ids.max(initial=0)))
        for name in KEPT.names or ():
            owner = verdicts if hasattr(verdicts, name) else verdicts.flows
            self._kept[name][ids] = getattr(owner, name)
        self._decided[ids] = True

    def decided(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows,) bool: has each flow its verdict?"""
        self._reserve(int(flow_id.max(initial=0)))
        return self._decided[flow_id.astype(np.int64)]

    def take(self, flow_id: np.ndarray) -> np.ndarray:
        """Return (flows,) KEPT; "unknown" where a flow had nothing to judge."""
        kept = self._kept[flow_id.astype(np.int64)]
        none = ~self.decided(flow_id)
        kept["label"][none] = kept["runner_up"][none] = -1
        kept["source"][none] = SOURCE_UNKNOWN
        kept["vlan"][none] = CONSTANTS["VLAN_NONE"]
        kept["reason"][none] = READY_REASONS.index("end")
        return kept

    def _reserve(self, flow_id: int) -> None:
        if flow_id >= len(self._kept):
            size = max(flow_id + 1, 2 * len(self._kept))
            self._kept = np.concatenate([self._kept, np.zeros(size - len(self._kept), KEPT)])
            more = np.zeros(size - len(self._decided), bool)
            self._decided = np.concatenate([self._decided, more])


class Classification:
    """Iterates over VerdictBatches of flows that have ended; see classify().

    Attributes:
        model: the model in use, or the cascade.
        warnings: what was wrong with a capture that could be read in part.
    """

    def __init__(self, capture: Capture, model: AnyModel, regroup: Regroup, rows_min: int):
        self.model = model
        self._capture = capture
        self._regroup = regroup
        self._verdicts = Verdicts()
        self._runtime: Runtime | None = None
        if isinstance(model, CascadeModel):
            self._runtime = Runtime(model.servings())
            eager = rows_min == 1
            most = 0 if eager else rows_min
            self._judged = pipeline.serve(capture, regroup, self._runtime, eager, rows_min=most)
        else:
            self._judged = pipeline.run(capture, regroup, model, rows_min)

    @property
    def warnings(self) -> list[str]:
        return self._capture.warnings

    def counters(self) -> dict[str, int]:
        """Return packets by reason, of the tracker and of regrouping, and flows of a cascade."""
        served = self._runtime.counters if self._runtime else {}
        return {**self._capture.counters, **self._regroup.counters, **served}

    def __enter__(self) -> "Classification":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.close()

    def __iter__(self) -> Iterator[VerdictBatch]:
        waiting = self._capture.ended()
        for verdicts in self._judged:
            self._verdicts.add(verdicts)
            waiting = np.concatenate([waiting, self._capture.ended()])
            state = waiting["state"]
            done = self._verdicts.decided(state["flow_id"]) | (state["counted"] == 0)
            yield from self._finish(waiting[done])
            waiting = waiting[~done]
        yield from self._finish(np.concatenate([waiting, self._capture.finish()]))

    def _finish(self, ended: np.ndarray) -> Iterator[VerdictBatch]:
        for start in range(0, len(ended), pipeline.ROWS_MAX):
            yield self._join(ended[start : start + pipeline.ROWS_MAX])

    def _join(self, ended: np.ndarray) -> VerdictBatch:
        state = ended["state"]
        kept = self._verdicts.take(state["flow_id"])
        none = np.zeros(len(ended), np.uint32)
        flows = FlowBatch(
            flow_id=state["flow_id"],
            key=ended["key"].astype(FLOW_KEY),  # concatenate() made the ports native
            initiator=state["initiator"],
            vlan=kept["vlan"],
            ifindex=none,
            packets=np.zeros((len(ended), 0), PACKET_FIELDS),
            raw=np.zeros((len(ended), 0, 0), np.uint8),
            lost=kept["lost"],
            reason=kept["reason"],
            ready_ns=kept["ready_ns"],
        )
        return VerdictBatch(
            flows=flows,
            records=state.astype(FLOW_STATE),
            classes=self.model.labels,
            label=kept["label"],
            probability=kept["probability"],
            runner_up=kept["runner_up"],
            stage=kept["stage"],
            depth=np.array(self.model.depths, np.uint16)[kept["stage"]],
            event=np.full(len(ended), EVENT_VERDICT, np.uint8),
            packets_used=kept["packets_used"],
            source=kept["source"],
            wait_ns=kept["wait_ns"],
            queue_ns=none.astype(np.uint64),
            infer_ns=kept["infer_ns"],
            models=self.model.models,
        )


def classify(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    model: str | PathLike[str] | None = None,
    *,
    cascade: str | PathLike[str] | None = None,
    point: str | None = None,
    first_n: int | None = None,
    wait_s: float | None = None,
    filter: str | None = None,
    tracking: Mapping[str, Any] | None = None,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> Classification:
    """Return an iterator over the verdicts on all flows of some captures.

    Flows come out as they end, each once, with its final totals. Use it as a context
    manager, or exhaust it.

    Args:
        paths: one or more pcap or pcapng files in order of time, "-" for standard input.
        model: a model file; None takes the cascade that ships.
        cascade: a cascade.toml, instead of a model.
        point: instead, a point that a search found, as front.json#7.
        first_n: packets of a flow that the model may see; None: as the model was trained.
        wait_s: a flow is judged by what there is when nothing came for so long.
        filter: packets to look at, in libpcap's syntax.
        tracking: more arguments of Capture by name: timeouts, sample, count (which packets
            count towards the first N; else as the model was trained).
        device: where flows are regrouped and the model runs: "cpu", "gpu", or "auto" for the
            GPU if there is one and it can run the model.
        on_progress: called about ten times a second with bytes read and bytes in all.

    Raises:
        CaptureError: a file cannot be opened or read at all.
        ModelError: the model is damaged, foreign, or made for other inputs.
        UsageError: first_n, wait_s or the filter is not valid.
        UnsupportedError: the device is not there.
    """
    if isinstance(paths, (str, PathLike)):
        paths = [paths]
    if not paths:
        raise UsageError("no capture given")
    if point is not None:
        model = model_of_point(point, model)
    loaded = load(model, cascade, device)
    depth = depth_for(loaded, first_n)
    capture = Capture(
        [str(path) for path in paths],
        first_n=depth,
        filter=filter,
        on_progress=on_progress,
        **_of_captures({"count": loaded.count, **(tracking or {})}),
    )
    # Somebody may be waiting at the end of a pipe; files are read for throughput.
    rows_min = 1 if capture.is_piped else pipeline.ROWS_MAX
    regroup = regroup_for(loaded, depth, wait_s, capture.parse, device)
    return Classification(capture, loaded, regroup, rows_min)


def _of_captures(tracking: dict[str, Any]) -> dict[str, Any]:
    if "active_timeout_s" in tracking:
        raise UsageError("timeout active: a capture's flows are reported once, at their end")
    return tracking
