"""Captures and what labels their flows.

Two kinds of folders are read:
    labels.csv beside captures   the lab's form: a server's address and port tell the label
    flows.csv, tasks.csv, pcap/  a bundle: one line a flow, labels by task
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import numpy as np

from etcpipe.batch import FlowBatch
from etcpipe.errors import UsageError
from etcpipe.lab import Truth, label_of, read_truth

Endpoint = tuple[str, int]


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


def find_recordings(
    folder: Path, task: str | None = None, part: str | None = None
) -> list[Recording]:
    """Return the labelled captures of a folder.

    Args:
        folder: or the labels.csv in it.
        task: which labels of a bundle to use.
        part: of a bundle, as its column "split" has them ("train", "test"); None for all.

    Raises:
        UsageError: nothing labelled is there, or a bundle lacks the task or the part.
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
        return list(_bundle(folder, task, part))
    raise UsageError(
        f"{folder}: no labels.csv there, as `etcpipe lab record` writes, and no tasks.csv with"
        " flows.csv"
    )


def find_labelled(paths: Sequence[Path], labels: Path) -> list[Recording]:
    """Return the captures that a labels.csv elsewhere speaks of.

    Args:
        paths: captures, or folders of them; the file names its captures by their path from
            such a folder, or by their name.

    Raises:
        UsageError: a capture of the file is not there, or none of the captures is in it.
        LabError: the file is damaged.
    """
    truth = read_truth(labels)
    found: dict[str, Recording] = {}
    for folder in paths:
        for one in find_captures(folder):
            inside = one.path.relative_to(folder).as_posix() if folder.is_dir() else ""
            name = inside if inside in truth else one.path.name
            if name in truth:
                found.setdefault(name, Recording(one.path, by_server(truth[name])))
    if missing := sorted(set(truth) - set(found)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(f"{labels}: no capture {missing[0]}{more} in {', '.join(map(str, paths))}")
    return [found[name] for name in sorted(found)]


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


def identify(flows: FlowBatch, first_us: np.ndarray) -> Iterator[Flow]:
    """Yield who each flow is.

    Args:
        first_us: (flows,) when its first packet came, microseconds by the packets' clock.
    """
    for first, key in zip(first_us.tolist(), flows.key, strict=True):
        ends = (
            (_address(key["a_addr"]), int(key["a_port"])),
            (_address(key["b_addr"]), int(key["b_port"])),
        )
        yield Flow(int(key["protocol"]), ends, first)


def _address(raw: np.ndarray) -> str:
    address = IPv6Address(raw.tobytes())
    return str(address.ipv4_mapped or address)


def by_server(truth: Iterable[Truth]) -> Labeller:
    """Return a labeller by the server's address, protocol and port."""
    rows = list(truth)
    return lambda flow: label_of(rows, flow.protocol, *flow.ends)


def _bundle(folder: Path, task: str | None, part: str | None) -> Iterator[Recording]:
    rows = [row for row in _csv(folder / "tasks.csv") if row["task"] == task]
    if not rows:
        tasks = sorted({row["task"] for row in _csv(folder / "tasks.csv")})
        raise UsageError(f"{folder}: choose a task of {', '.join(tasks)}")
    labels = {row["flow_uid"]: row["label"] for row in rows if part in (None, row.get("split"))}
    if not labels:
        parts = sorted({row.get("split") or "none" for row in rows})
        raise UsageError(f"{folder}: no part {part!r} of {task}: there is {', '.join(parts)}")
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
