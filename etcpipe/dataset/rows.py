"""The data of a training: rows of views, labels, and the groups for splitting."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from etcpipe.errors import UsageError
from etcpipe.gpu.views import VIEWS

STATS = VIEWS["stats"]

# How flows are divided into training and evaluation.
SPLITS = {
    "capture": "no capture is on both sides",
    "host": "no pair of hosts is on both sides",
    "time": "what is learnt from came before what is judged, with a gap",
    "flow": "flows at random: what is the same all over a capture leaks, scores are too good",
}


@dataclass(frozen=True)
class Input:
    """How packets become rows; model files have the same settings.

    Attributes:
        first_n: packets of a flow that count, 1 .. FIRST_N_MAX.
        count: which packets count, a name of COUNT_RULES.
        wait_s: a flow is complete when no counted packet came for so long.
    """

    first_n: int = 10
    count: str = "payload"
    wait_s: float = 1.0


def _no_rows() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Dataset:
    """Labelled flows.

    Attributes:
        stats: (flows, 67) float32, the view stats under no mask.
        seq: (flows, 30, 3) float32, the view seq.
        label: (flows,) int32, index into classes.
        capture: (flows,) int32, index into captures; flows of a capture stay together when
            data are split.
        unlabelled: number of flows without a label.
        views: (flows, ...) rows of further views by name, under mask.
        mask: of the bytes in views.
        host: (flows,) int32, equal for flows between the same two addresses; empty if
            unknown.
        first_us: (flows,) int64, time of the first packet by the capture's clock; or empty.
        payload: (flows,) uint8, kind of the first payload, index into payload.KINDS; or empty.
        digests: SHA-256 of the captures, from a folder's manifest; the captures may be gone.
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
    host: np.ndarray = field(default_factory=_no_rows)
    first_us: np.ndarray = field(default_factory=_no_rows)
    payload: np.ndarray = field(default_factory=_no_rows)
    digests: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.label)

    def rows(self, view: str) -> np.ndarray:
        """Return (flows, ...), the rows of a view.

        Raises:
            UsageError: the view was not read.
        """
        rows = {"stats": self.stats, "seq": self.seq, **self.views}
        if view not in rows:
            raise UsageError(
                f"the rows have no view {view}: build the dataset again with --view {view}"
            )
        return rows[view]

    def columns(self, names: Sequence[str]) -> np.ndarray:
        """Return (flows, names) float32, some columns of stats in the order given."""
        every = STATS.column_names("none")
        return np.ascontiguousarray(self.stats[:, [every.index(name) for name in names]])

    def groups(self, split: str) -> np.ndarray:
        """Return (flows,) int; flows with the same number must be on the same side of a split.

        Args:
            split: a name of SPLITS.

        Raises:
            UsageError: there is no such split, or its groups are unknown.
        """
        of_split = {
            "capture": self.capture,
            "host": self.host,
            "time": self.first_us,
            "flow": np.arange(len(self)),
        }
        if split not in of_split:
            raise UsageError(f"no split {split!r}: choose {', '.join(SPLITS)}")
        if len(of_split[split]) != len(self):
            raise UsageError(f"the rows cannot be split by {split}: nobody noted it")
        return of_split[split]

    def select(self, chosen: np.ndarray) -> "Dataset":
        """Return some flows, in memory; classes and captures keep their numbers.

        Args:
            chosen: (flows,) bool, or row numbers.
        """
        rows = {
            one.name: getattr(self, one.name)[chosen]
            for one in fields(self)
            if isinstance(getattr(self, one.name), np.ndarray)
            and len(getattr(self, one.name)) == len(self)
        }
        return replace(self, **rows, views={n: v[chosen] for n, v in self.views.items()})

    def digest(self) -> str:
        """Return 16 hex digits of a digest of rows, labels and captures."""
        digest = hashlib.sha256()
        further = [self.views[name] for name in sorted(self.views)]
        for array in (self.stats, self.seq, self.label, self.capture, *further):
            digest.update(np.ascontiguousarray(array).data)
        digest.update("\n".join(self.classes).encode())
        return digest.hexdigest()[:16]

    def short_capture_digests(self) -> tuple[str, ...]:
        """Return the first 16 hex digits of each of capture_digests(), sorted."""
        return tuple(sorted(digest[:16] for digest in self.capture_digests()))

    def capture_digests(self) -> dict[str, str]:
        """Return SHA-256 -> name of the captures, from a built folder's manifest or the files.

        Captures that are neither in a manifest nor files any more are left out.
        """
        if self.digests:
            return dict(zip(self.digests, self.captures, strict=True))
        files = [Path(name) for name in self.captures]
        return {file_digest(file): str(file) for file in files if file.is_file()}


def file_digest(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    digest = hashlib.sha256()  # hashlib.file_digest is of Python 3.11
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
