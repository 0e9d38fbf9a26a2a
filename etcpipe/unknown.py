"""Saves the first packets of unknown flows in a ring of captures.

Packets are kept in memory until their flow has its verdict; those of "unknown" flows are written
to files. Memory and files are bounded: flows whose packets were no longer in memory are counted,
and the oldest file is replaced by a new one.
"""

import logging
import struct
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from etcpipe.batch import LINKTYPE_ETHERNET, PacketBatch
from etcpipe.errors import OutputError
from etcpipe.verdict import EVENT_EARLY, VerdictBatch

log = logging.getLogger(__name__)

FILES = 16
FILE_BYTES = 16 << 20
MEMORY_BYTES = 64 << 20
SNAP_LEN = 1600

_MAGIC_NS = 0xA1B23C4D
_PREFIX = "unknown-"


@dataclass(frozen=True)
class _Kept:
    """A copy of the packets of a batch.

    Attributes:
        frames: (packets, SNAP_LEN) uint8.
    """

    flow_id: np.ndarray
    timestamp_ns: np.ndarray
    captured: np.ndarray
    wire_len: np.ndarray
    frames: np.ndarray


class UnknownFlows:
    """A ring of captures in a folder."""

    def __init__(
        self,
        folder: Path,
        files: int = FILES,
        file_bytes: int = FILE_BYTES,
        memory_bytes: int = MEMORY_BYTES,
        clock_offset_ns: int = 0,
    ) -> None:
        """Open the ring; files of an earlier run stay until their turn comes.

        Args:
            clock_offset_ns: added to packets' times if their clock is not the time of day.

        Raises:
            OutputError: the folder cannot be written.
        """
        self._folder, self._files, self._file_bytes = folder, files, file_bytes
        self._memory_bytes, self._offset_ns = memory_bytes, clock_offset_ns
        self._kept: deque[_Kept] = deque()
        self._kept_bytes = 0
        self._link_type = LINKTYPE_ETHERNET
        self._file: Path | None = None
        self._has_failed = False
        self.saved = 0
        self.missed = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {folder}: {error.strerror}") from error
        numbers = [_number(path) for path in self._paths()]
        self._next = max(numbers, default=0) + 1

    def keep(self, batch: PacketBatch) -> None:
        """Copy the packets of a batch; they replace the oldest ones."""
        if not len(batch):
            return
        self._link_type = batch.link_type
        captured = np.minimum(batch.captured, SNAP_LEN)
        frames = batch.heads(np.empty((len(batch), int(captured.max())), np.uint8))
        self._kept.append(
            _Kept(
                batch.flow_id.copy(),
                batch.timestamp_ns.copy(),
                captured,
                batch.wire_len.copy(),
                frames,
            )
        )
        self._kept_bytes += frames.nbytes
        while self._kept_bytes > self._memory_bytes:
            self._kept_bytes -= self._kept.popleft().frames.nbytes

    def take(self, verdicts: VerdictBatch) -> None:
        """Write the packets of flows whose final verdict is "unknown".

        An error is logged once; the next flows are tried again.
        """
        wanted = verdicts.flows.flow_id[(verdicts.label < 0) & (verdicts.event != EVENT_EARLY)]
        if not len(wanted):
            return
        records, found = [], np.zeros(0, np.uint64)
        for kept in self._kept:
            chosen = np.flatnonzero(np.isin(kept.flow_id, wanted))
            records += [self._record(kept, i) for i in chosen.tolist()]
            found = np.union1d(found, kept.flow_id[chosen])
        try:
            self._write(records)
        except OSError as error:
            if not self._has_failed:
                log.warning(
                    "cannot write %s: %s; unknown flows are missed", self._folder, error.strerror
                )
            self._has_failed, found = True, found[:0]
            self._file = None  # it may end within a packet, so nothing can be appended
        else:
            self._has_failed = False
        self.saved += len(found)
        self.missed += len(wanted) - len(found)

    def counters(self) -> dict[str, int]:
        """Return how many unknown flows were saved, and how many were not."""
        return {"UNKNOWN_SAVED": self.saved, "UNKNOWN_MISSED": self.missed}

    def _record(self, kept: _Kept, i: int) -> bytes:
        seconds, ns = divmod(int(kept.timestamp_ns[i]) + self._offset_ns, 10**9)
        length = int(kept.captured[i])
        header = struct.pack("<IIII", seconds, ns, length, int(kept.wire_len[i]))
        return header + kept.frames[i, :length].tobytes()

    def _write(self, records: list[bytes]) -> None:
        for record in records:
            if (
                self._file is None
                or not self._file.exists()
                or self._file.stat().st_size + len(record) > self._file_bytes
            ):
                self._begin()
            assert self._file is not None
            with self._file.open("ab") as file:
                file.write(record)

    def _begin(self) -> None:
        self._file = self._folder / f"{_PREFIX}{self._next:06}.pcap"
        self._next += 1
        header = struct.pack("<IHHiIII", _MAGIC_NS, 2, 4, 0, 0, SNAP_LEN, self._link_type)
        self._file.write_bytes(header)
        for old in self._paths()[: -self._files]:
            old.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob(f"{_PREFIX}[0-9]*.pcap"), key=_number)


def _number(path: Path) -> int:
    digits = path.stem.removeprefix(_PREFIX)
    return int(digits) if digits.isdigit() else 0
