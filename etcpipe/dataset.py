"""Labelled rows from captures, made by the code that serves: train == serve.

Two kinds of folders are read:
    labels.csv beside captures   the lab's form: a server's address and port tell the label
    flows.csv, tasks.csv, pcap/  a bundle: one line a flow, labels by task
"""

import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.capture import Capture
from etcpipe.errors import UsageError
from etcpipe.gpu.regroup import Regroup
from etcpipe.gpu.views import VIEWS, compute
from etcpipe.lab import Truth, label_of, read_truth

STATS = VIEWS["stats"]

Endpoint = tuple[str, int]


@dataclass(frozen=True)
class Input:
    """How packets become rows; a model file carries the same settings.

    Attributes:
        first_n: packets of a flow that count, 1 .. FIRST_N_MAX.
        count: which packets count, a name of COUNT_RULES.
        wait_s: a flow is complete when nothing that counts came for so long.
    """

    first_n: int = 10
    count: str = "payload"
    wait_s: float = 1.0


@dataclass(frozen=True)
class Dataset:
    """Labelled flows.

    Attributes:
        stats: (flows, 67) float32, the view stats under no mask.
        seq: (flows, 30, 3) float32, the view seq.
        label: (flows,) int32, index into classes.
        capture: (flows,) int32, index into captures; flows of one capture stay together
            when data are split.
        unlabelled: flows that were read and have no label.
        views: (flows, ...) rows of further views by name, under mask.
        mask: of the bytes in views.
    """

    stats: np.ndarray
    seq: np.ndarray
    label: np.ndarray
    capture: np.ndarray
    classes: tuple[str, ...]
    captures: tuple[str, ...]
    unlabelled: int = 0
    views: dict[str, np.ndarray] = field(default_factory=dict)
    mask: str = "strict"

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, view: str) -> np.ndarray:
        """Return (flows, ...), the rows of a view that was read.

        Raises:
            KeyError: it was not.
        """
        return {"stats": self.stats, "seq": self.seq, **self.views}[view]

    def columns(self, names: Sequence[str]) -> np.ndarray:
        """Return (flows, names) float32, some columns of stats in the order given."""
        every = STATS.column_names("none")
        return np.ascontiguousarray(self.stats[:, [every.index(name) for name in names]])

    def digest(self) -> str:
        """Return 16 hex digits over rows, labels and how captures divide them."""
        digest = hashlib.sha256()
        further = [self.views[name] for name in sorted(self.views)]
        for array in (self.stats, self.seq, self.label, self.capture, *further):
            digest.update(np.ascontiguousarray(array).data)
        digest.update("\n".join(self.classes).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Flow:
    """Who a flow is, for labelling: ends in canonical order, first packet in microseconds."""

    protocol: int
    ends: tuple[Endpoint, Endpoint]
    first_us: int


Labeller = Callable[[Flow], str | None]


@dataclass(frozen=True)
class Recording:
    """One capture and how to label its flows."""

    path: Path
    label: Labeller


def find_recordings(folder: Path, task: str | None = None) -> list[Recording]:
    """Return the labelled captures of a folder.

    Args:
        folder: or the labels.csv in it.
        task: which labels of a bundle to use.

    Raises:
        UsageError: nothing labelled is there, or a bundle lacks the task.
        LabError: labels.csv is damaged.
    """
    if folder.name == "labels.csv":
        folder = folder.parent
    if (folder / "labels.csv").exists():
        return [
            Recording(folder / name, by_server(truth))
            for name, truth in sorted(read_truth(folder / "labels.csv").items())
        ]
    if (folder / "tasks.csv").exists():
        return list(_bundle(folder, task))
    raise UsageError(f"{folder}: no labels.csv there, and no tasks.csv with flows.csv")


def find_captures(path: Path) -> list[Recording]:
    """Return captures whose flows all have the same label, for those who need none.

    Args:
        path: a capture, or a folder with captures in it or below.

    Raises:
        UsageError: the folder has none.
    """
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*.pcap*") if p.is_file())
    if not found:
        raise UsageError(f"{path}: no captures (*.pcap, *.pcapng) there")
    return [Recording(one, lambda flow: "any") for one in found]


def read(
    recordings: Sequence[Recording],
    settings: Input,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    views: Sequence[str] = (),
    mask: str = "strict",
) -> Dataset:
    """Return the labelled flows of some captures.

    Args:
        on_progress: called with captures read and captures in all.
        views: to read beside stats and seq, names of VIEWS.
        mask: of their bytes, a name of gpu.mask.MASKS.

    Raises:
        CaptureError: a capture cannot be read.
        UsageError: no flow has a label.
    """
    wanted = tuple(dict.fromkeys(("stats", "seq", *views)))
    parts, labels, captures, unlabelled = [], [], [], 0
    for i, recording in enumerate(recordings):
        for rows, names in _read_one(recording, settings, wanted, mask):
            keep = np.array([name is not None for name in names], bool)
            unlabelled += int((~keep).sum())
            parts.append([rows[name][keep] for name in wanted])
            labels += [name for name in names if name is not None]
            captures += [i] * int(keep.sum())
        on_progress(i + 1, len(recordings))
    if not labels:
        raise UsageError("no flow of these captures has a label")
    classes = tuple(sorted(set(labels)))
    used, capture = np.unique(captures, return_inverse=True)
    stats, seq, *further = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Dataset(
        stats=stats,
        seq=seq,
        label=np.array([classes.index(name) for name in labels], np.int32),
        capture=capture.astype(np.int32),
        classes=classes,
        captures=tuple(str(recordings[i].path) for i in used),
        unlabelled=unlabelled,
        views=dict(zip(wanted[2:], further, strict=True)),
        mask=mask,
    )


def _read_one(
    recording: Recording, settings: Input, views: Sequence[str], mask: str
) -> Iterator[tuple[dict[str, np.ndarray], list[str | None]]]:
    capture = Capture([recording.path], settings.first_n, settings.count)
    raw_len = max(VIEWS[name].raw_len for name in views)
    regroup = Regroup(settings.first_n, raw_len, wait_s=settings.wait_s, mask=mask)
    batches = [regroup.add(batch, capture.clock_ns()) for batch in capture]
    batches.append(regroup.flush())
    ended = np.concatenate([capture.ended(), capture.finish()])["state"]
    first_us = dict(zip(ended["flow_id"].tolist(), ended["first_ns"] // 1000, strict=True))
    for flows in batches:
        if len(flows):
            names = [recording.label(flow) for flow in _identify(flows, first_us)]
            yield {name: rows_of(name, flows, settings.first_n) for name in views}, names


def rows_of(view: str, flows: FlowBatch, first_n: int) -> np.ndarray:
    """Return the rows that a Dataset keeps of flows: of a view, stats under no mask."""
    return compute(VIEWS[view], flows, first_n, VIEWS[view].column_names("none"))


def _identify(flows: FlowBatch, first_us: dict[int, int]) -> Iterator[Flow]:
    for flow_id, key in zip(flows.flow_id.tolist(), flows.key, strict=True):
        ends = (
            (_address(key["a_addr"]), int(key["a_port"])),
            (_address(key["b_addr"]), int(key["b_port"])),
        )
        yield Flow(int(key["protocol"]), ends, int(first_us[flow_id]))


def _address(raw: np.ndarray) -> str:
    address = IPv6Address(raw.tobytes())
    return str(address.ipv4_mapped or address)


def by_server(truth: Iterable[Truth]) -> Labeller:
    """Return a labeller by the server's address, protocol and port."""
    rows = list(truth)
    return lambda flow: label_of(rows, flow.protocol, *flow.ends)


def _bundle(folder: Path, task: str | None) -> Iterator[Recording]:
    labels = {
        row["flow_uid"]: row["label"] for row in _csv(folder / "tasks.csv") if row["task"] == task
    }
    if not labels:
        tasks = sorted({row["task"] for row in _csv(folder / "tasks.csv")})
        raise UsageError(f"{folder}: choose a task of {', '.join(tasks)}")
    yield from bundle_recordings(folder, lambda row: labels.get(row["flow_uid"]))


def bundle_recordings(
    folder: Path, label: Callable[[dict[str, str]], str | None]
) -> Iterator[Recording]:
    """Yield the captures of a bundle that have a labelled flow.

    Args:
        label: tells the label of a row of flows.csv, None to leave the flow out.
    """
    by_capture: dict[str, dict[tuple, str]] = {}
    for row in _csv(folder / "flows.csv"):
        name = label(row)
        if name is not None:
            by_capture.setdefault(row["pcap"], {})[_row_identity(row)] = name
    for pcap, names in sorted(by_capture.items()):
        yield Recording(folder / pcap, _by_identity(names))


def _by_identity(names: dict[tuple, str]) -> Labeller:
    return lambda flow: names.get((flow.protocol, frozenset(flow.ends), flow.first_us))


def _row_identity(row: dict[str, str]) -> tuple:
    ends = (
        (str(ip_address(row["init_ip"])), int(row["init_port"])),
        (str(ip_address(row["resp_ip"])), int(row["resp_port"])),
    )
    seconds, _, fraction = row["first_ts"].partition(".")
    first_us = int(seconds) * 1_000_000 + int(fraction.ljust(6, "0")[:6] or 0)
    return int(row["proto"]), frozenset(ends), first_us


def _csv(path: Path) -> Iterator[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            yield from csv.DictReader(file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
