"""From labelled captures to rows, by the same code that serves."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.capture import Capture
from etcpipe.dataset import payload
from etcpipe.dataset.recordings import Flow, Labeller, Recording, identify
from etcpipe.dataset.rows import Dataset, Input
from etcpipe.errors import CaptureError, UsageError
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import VIEWS, compute

OnProgress = Callable[[int, int], None]
# How much longer an ended flow is remembered than its row can be open.
KEEP_ENDED_S = 10.0
OnSkip = Callable[[Recording, CaptureError], None]
Change = Callable[[FlowBatch], FlowBatch]


def as_they_are(flows: FlowBatch) -> FlowBatch:
    """Return flows unchanged."""
    return flows


@dataclass(frozen=True)
class Labelled:
    """Labelled flows of one capture that were complete at the same time.

    Attributes:
        recording: index of the capture.
        flows: their rows from regrouping.
        labels: (flows,) names.
        host: (flows,) int64, a hash of the two addresses.
        first_us: (flows,) int64.
        payload: (flows,) uint8, index into payload.KINDS.
        unlabelled: number of further flows, without a label.
    """

    recording: int
    flows: FlowBatch
    labels: list[str]
    host: np.ndarray
    first_us: np.ndarray
    payload: np.ndarray
    unlabelled: int


@dataclass(frozen=True)
class Chunk:
    """Rows of Labelled flows.

    Attributes:
        rows: (flows, ...) by view.
        recording, labels, host, first_us, payload, unlabelled: as of Labelled.
    """

    recording: int
    rows: dict[str, np.ndarray]
    labels: list[str]
    host: np.ndarray
    first_us: np.ndarray
    payload: np.ndarray
    unlabelled: int


def read(
    recordings: Sequence[Recording],
    settings: Input,
    on_progress: OnProgress = lambda done, total: None,
    views: Sequence[str] = (),
    mask: str = "strict",
    depth: int | None = None,
    change: Change = as_they_are,
) -> Dataset:
    """Return the labelled flows of some captures.

    Args:
        on_progress: called with captures read and captures in all.
        views: to read beside stats and seq, names of VIEWS.
        mask: of their bytes, a name of gpu.mask.MASKS.
        depth: packets that rows show, at most settings.first_n, which is the default.
        change: applied to labelled flows before views are computed (etcpipe.shaping).

    Raises:
        CaptureError: a capture cannot be read.
        UsageError: no flow has a label.
    """
    wanted = views_wanted(views)
    chunks = list(
        read_chunks(recordings, settings, wanted, mask, on_progress, depth=depth, change=change)
    )
    rows = {name: [chunk.rows[name] for chunk in chunks] for name in wanted}
    return dataset_of(chunks, recordings, rows, mask)


def dataset_of(
    parts: "Sequence[Chunk] | Sequence[Labelled]",
    recordings: Sequence[Recording],
    rows: dict[str, list[np.ndarray]],
    mask: str,
) -> Dataset:
    """Return parts of captures as one Dataset.

    Args:
        rows: (flows, ...) of each part, by view; stats and seq are among them.

    Raises:
        UsageError: no flow has a label.
    """
    labels = [name for part in parts for name in part.labels]
    if not labels:
        raise UsageError("no flow of these captures has a label")
    classes, label = np.unique(labels, return_inverse=True)
    sizes = [len(part.labels) for part in parts]
    used, capture = np.unique(
        np.repeat([part.recording for part in parts], sizes), return_inverse=True
    )
    hosts = np.concatenate([part.host for part in parts])
    whole = {name: np.concatenate(of_parts) for name, of_parts in rows.items()}
    return Dataset(
        stats=whole.pop("stats"),
        seq=whole.pop("seq"),
        label=label.astype(np.int32),
        capture=capture.astype(np.int32),
        classes=tuple(classes.tolist()),
        captures=tuple(str(recordings[i].path) for i in used),
        unlabelled=sum(part.unlabelled for part in parts),
        views=whole,
        mask=mask,
        host=np.unique(hosts, return_inverse=True)[1].astype(np.int32),
        first_us=np.concatenate([part.first_us for part in parts]),
        payload=np.concatenate([part.payload for part in parts]),
    )


def views_wanted(views: Sequence[str]) -> tuple[str, ...]:
    """Return the views of a Dataset: the two that it always has, and others."""
    return tuple(dict.fromkeys(("stats", "seq", *views)))


def read_chunks(
    recordings: Sequence[Recording],
    settings: Input,
    views: Sequence[str],
    mask: str,
    on_progress: OnProgress = lambda done, total: None,
    on_skip: OnSkip | None = None,
    depth: int | None = None,
    change: Change = as_they_are,
) -> Iterator[Chunk]:
    """Yield the rows of labelled flows, each time of a part of one capture.

    Args:
        on_skip: called for a capture that cannot be read; the rest of it is left out.

    Raises:
        CaptureError: a capture cannot be read, and there is no on_skip.
    """
    shown = depth or settings.first_n
    for one in read_labelled(recordings, settings, views, mask, on_progress, on_skip):
        flows = change(one.flows)
        others = {name: value for name, value in vars(one).items() if name != "flows"}
        yield Chunk(rows={name: rows_of(name, flows, shown) for name in views}, **others)


def read_labelled(
    recordings: Sequence[Recording],
    settings: Input,
    views: Sequence[str],
    mask: str,
    on_progress: OnProgress = lambda done, total: None,
    on_skip: OnSkip | None = None,
) -> Iterator[Labelled]:
    """Yield the labelled flows of captures; as read_chunks(), but with their packets."""
    for i, recording in enumerate(recordings):
        try:
            for flows in _flows_of(recording, settings, views, mask):
                if len(flows[0]):
                    yield _labelled(i, recording.label, flows)
        except CaptureError as error:
            if on_skip is None:
                advice = "take it out, or begin with `etcpipe dataset build`, which goes on"
                raise CaptureError(f"{error}; {advice}") from error
            on_skip(recording, error)
        on_progress(i + 1, len(recordings))


def _flows_of(
    recording: Recording, settings: Input, views: Sequence[str], mask: str
) -> Iterator[tuple[FlowBatch, np.ndarray, np.ndarray]]:
    """Yield complete flows, the time of each first packet, and the kind of its payload."""
    capture = Capture([recording.path], settings.first_n, settings.count)
    raw_len = max(VIEWS[name].raw_len for name in views)
    regroup = Regroup(settings.first_n, raw_len, wait_s=settings.wait_s, mask=mask)
    peek = Regroup(settings.first_n, payload.PEEK, wait_s=settings.wait_s, mask="none")
    began = _Began(capture, settings.wait_s)
    kinds: dict[int, int] = {}

    def describe(flows: FlowBatch, peeked: FlowBatch) -> tuple[FlowBatch, np.ndarray, np.ndarray]:
        kinds.update(zip(peeked.flow_id.tolist(), payload.kinds(peeked).tolist(), strict=True))
        kind = [kinds.pop(flow, 0) for flow in flows.flow_id.tolist()]
        return flows, began.first_us(flows), np.array(kind, np.uint8)

    for batch in capture:
        clock_ns = capture.clock_ns()
        yield describe(regroup.add(batch, clock_ns), peek.add(batch, clock_ns))
    yield describe(regroup.flush(), peek.flush())


class _Began:
    """Tells when flows began, also if they ended before their row was complete."""

    def __init__(self, capture: Capture, wait_s: float) -> None:
        self._capture = capture
        # Regrouping closes a row after wait_s at most; later its flow is not asked for.
        self._keep_ns = int((wait_s + KEEP_ENDED_S) * 1e9)
        self._ended: dict[int, tuple[int, int]] = {}

    def first_us(self, flows: FlowBatch) -> np.ndarray:
        """Return (flows,) int64, the packet that began each flow, microseconds of its clock."""
        state = self._capture.ended()["state"]
        times = zip(state["first_ns"].tolist(), state["last_ns"].tolist(), strict=True)
        self._ended.update(zip(state["flow_id"].tolist(), times, strict=True))
        live = self._capture.records(flows)
        present = flows.packets["present"] != 0
        counted_ns = flows.packets["timestamp_ns"][np.arange(len(flows)), present.argmax(axis=1)]
        first_ns = np.where(live["flow_id"] != 0, live["first_ns"], counted_ns)
        for i in np.flatnonzero(live["flow_id"] == 0).tolist():
            first_ns[i] = self._ended.get(int(flows.flow_id[i]), (first_ns[i],))[0]
        old_ns = (self._capture.clock_ns() or 0) - self._keep_ns
        self._ended = {flow: at for flow, at in self._ended.items() if at[1] >= old_ns}
        return (first_ns // 1000).astype(np.int64)


def _labelled(
    recording: int, label: Labeller, flows: tuple[FlowBatch, np.ndarray, np.ndarray]
) -> Labelled:
    batch, first_us, kinds = flows
    who = list(identify(batch, first_us))
    names = [label(flow) for flow in who]
    keep = np.array([name is not None for name in names], bool)
    host = np.array([_host(flow) for flow in who], np.int64)
    return Labelled(
        recording,
        batch.select(keep),
        [name for name in names if name is not None],
        host[keep],
        first_us[keep],
        kinds[keep],
        int((~keep).sum()),
    )


def rows_of(view: str, flows: FlowBatch, first_n: int) -> np.ndarray:
    """Return the rows of a view for a Dataset; all columns of stats, under no mask."""
    return compute(VIEWS[view], flows, first_n, VIEWS[view].column_names("none"))


def _host(flow: Flow) -> int:
    addresses = "\n".join(sorted(address for address, _ in flow.ends))
    digest = hashlib.blake2b(addresses.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
