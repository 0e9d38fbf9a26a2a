"""Makes the two captures that classify.py is measured on, in a folder outside the repository.

    mix    recordings of real programs (tests/data/lab), repeated with other addresses, ports
           and starting times until there are enough packets, in order of time
    short  flows of 10 packets of 60 bytes: a TCP handshake, then TLS-looking records,
           2,000 flows at a time, none of them closed: the most work a byte of traffic

Every copy draws addresses at random: runs of neighbouring addresses degenerate the flow
table of some peers. Checksums are kept right (RFC 1624). Called by hand or by classify.py:

    python tools/bench/captures.py WORK --recordings tests/data/lab --packets 1000000
"""

import argparse
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rewrite

PCAP_HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("major", "<u2"),
        ("minor", "<u2"),
        ("zone", "<i4"),
        ("accuracy", "<u4"),
        ("snap_len", "<u4"),
        ("link_type", "<u4"),
    ]
)
RECORD = np.dtype([("seconds", "<u4"), ("micros", "<u4"), ("captured", "<u4"), ("wire_len", "<u4")])
MAGIC_MICROS = 0xA1B2C3D4
LINKTYPE_ETHERNET = 1

NAMES = ("mix", "short")
START_S = 1_700_000_000
OVERLAP = 16  # recordings that run at the same time in mix
FLOW_PACKETS = 10
FLOWS_AT_A_TIME = 2_000
SHORT_FRAME = 60
SHORT_GAP_US = 10  # between two packets of short: 100,000 packets a second


@dataclass(frozen=True)
class Recording:
    """A capture file in memory.

    Attributes:
        image: (bytes,) uint8, the file behind its header: record headers and frames.
        start: (packets,) int64, where each record begins in image.
        captured: (packets,) int64, bytes of each frame that are there.
        time_us: (packets,) int64, from the first packet.
    """

    image: np.ndarray
    start: np.ndarray
    captured: np.ndarray
    time_us: np.ndarray

    @property
    def frame(self) -> np.ndarray:
        """(packets,) int64, where each frame begins in image."""
        return self.start + RECORD.itemsize


def read(path: Path) -> Recording | None:
    """Return an Ethernet pcap file of this byte order and microseconds; None if it is another."""
    content = np.fromfile(path, np.uint8)
    if len(content) <= PCAP_HEADER.itemsize:
        return None
    header = content[: PCAP_HEADER.itemsize].view(PCAP_HEADER)[0]
    if header["magic"] != MAGIC_MICROS or header["link_type"] != LINKTYPE_ETHERNET:
        return None
    image = content[PCAP_HEADER.itemsize :]
    starts, position = [], 0
    while position + RECORD.itemsize <= len(image):
        record = image[position : position + RECORD.itemsize].view(RECORD)[0]
        end = position + RECORD.itemsize + int(record["captured"])
        if end > len(image):
            break
        starts.append(position)
        position = end
    start = np.array(starts, np.int64)
    records = _records(image, start)
    time_us = records["seconds"].astype(np.int64) * 1_000_000 + records["micros"]
    return Recording(image[:position], start, records["captured"].astype(np.int64), time_us)


def write_mix(path: Path, recordings: list[Recording], packets: int, seed: int = 1) -> None:
    """Write `packets` packets: copies of the recordings, each with addresses of its own."""
    templates = [rewrite.Template(r.image, r.frame, r.captured) for r in recordings]
    blocks, starts, times = [], [], []
    made, begin_us, copy = 0, 0, 0
    # Beyond what is needed, so that the last packets of the file overlap as the first ones do.
    while made < packets + OVERLAP * max(len(r.start) for r in recordings):
        which = copy % len(recordings)
        recording = recordings[which]
        block = templates[which].copy(seed * 1_000_003 + copy)
        time_us = recording.time_us - recording.time_us.min() + begin_us
        _stamp(block, recording.start, time_us)
        blocks.append(block)
        starts.append(np.stack([np.full(len(time_us), copy), recording.start]))
        times.append(time_us)
        made += len(time_us)
        begin_us += int(np.ptp(recording.time_us)) // OVERLAP
        copy += 1
    order = np.argsort(np.concatenate(times), kind="stable")[:packets]
    where = np.concatenate(starts, axis=1)[:, order]
    _write(path, blocks, where)


def write_short(path: Path, flows: int, seed: int = 1) -> None:
    """Write `flows` flows of FLOW_PACKETS packets, FLOWS_AT_A_TIME of them interleaved."""
    random = np.random.default_rng(seed)
    with _output(path) as out:
        for first in range(0, flows, FLOWS_AT_A_TIME):
            group = min(FLOWS_AT_A_TIME, flows - first)
            frames = rewrite.tls_like_flows(group, FLOW_PACKETS, SHORT_FRAME, random)
            index = np.arange(group * FLOW_PACKETS) + first * FLOW_PACKETS
            records = np.zeros((len(index), RECORD.itemsize + SHORT_FRAME), np.uint8)
            # Packet 0 of all flows of the group, then packet 1 of all of them, ...
            records[:, RECORD.itemsize :] = frames.swapaxes(0, 1).reshape(-1, SHORT_FRAME)
            header = np.zeros(len(index), RECORD)
            header["captured"] = header["wire_len"] = SHORT_FRAME
            header["seconds"], header["micros"] = _split(index * SHORT_GAP_US)
            records[:, : RECORD.itemsize] = header.view(np.uint8).reshape(-1, RECORD.itemsize)
            out.write(records.tobytes())


def make(work: Path, recordings: Path, packets: int, names: Sequence[str]) -> dict[str, Path]:
    """Return the captures "mix" and "short" by name, made where they are not there yet.

    Raises:
        SystemExit: no recording can be read.
    """
    sources = sorted(recordings.glob("*.pcap"))
    version = hashlib.sha256()
    for file in (Path(__file__), Path(rewrite.__file__), *sources):
        version.update(file.read_bytes())
    work.mkdir(parents=True, exist_ok=True)
    made = {name: work / f"{name}-{packets}-{version.hexdigest()[:8]}.pcap" for name in names}
    if "mix" in made and not made["mix"].exists():
        usable = [r for r in map(read, sources) if r is not None and len(r.start)]
        if not usable:
            raise SystemExit(f"captures: no Ethernet pcap file in {recordings}")
        write_mix(made["mix"], usable, packets)
    if "short" in made and not made["short"].exists():
        write_short(made["short"], packets // FLOW_PACKETS)
    return made


def _records(image: np.ndarray, start: np.ndarray) -> np.ndarray:
    header = image[start[:, None] + np.arange(RECORD.itemsize)]
    return header.view(RECORD).ravel()


def _split(time_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return START_S + time_us // 1_000_000, time_us % 1_000_000


def _stamp(block: np.ndarray, start: np.ndarray, time_us: np.ndarray) -> None:
    header = _records(block, start)
    header["seconds"], header["micros"] = _split(time_us)
    block[start[:, None] + np.arange(RECORD.itemsize)] = header.view(np.uint8).reshape(
        -1, RECORD.itemsize
    )


def _write(path: Path, blocks: list[np.ndarray], where: np.ndarray) -> None:
    """Write the records `where` (2, packets): which block, and where in it."""
    views = [memoryview(block) for block in blocks]
    length = np.zeros(where.shape[1], np.int64)
    for i, block in enumerate(blocks):
        mine = where[0] == i
        length[mine] = RECORD.itemsize + _records(block, where[1, mine])["captured"]
    with _output(path) as out:
        ends = where[1] + length
        for which, start, end in zip(
            where[0].tolist(), where[1].tolist(), ends.tolist(), strict=True
        ):
            out.write(views[which][start:end])


class _output:
    """A pcap file that takes its name only once it is whole."""

    def __init__(self, path: Path):
        self._path = path
        self._part = path.with_suffix(f".{os.getpid()}.part")

    def __enter__(self):
        self._file = self._part.open("wb", buffering=1 << 20)
        header = np.zeros(1, PCAP_HEADER)
        header["magic"], header["major"], header["minor"] = MAGIC_MICROS, 2, 4
        header["snap_len"], header["link_type"] = 1 << 18, LINKTYPE_ETHERNET
        self._file.write(header.tobytes())
        return self._file

    def __exit__(self, kind, error, trace):
        self._file.close()
        if kind is None:
            self._part.replace(self._path)
        else:
            self._part.unlink()


def main() -> None:
    """Make the captures and print their paths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for the captures")
    parser.add_argument("--recordings", type=Path, required=True, help="folder of pcap files")
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    options = parser.parse_args()
    made = make(options.work, options.recordings, options.packets, options.only)
    for name, path in made.items():
        print(f"{name}\t{path}")


if __name__ == "__main__":
    main()
