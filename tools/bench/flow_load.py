"""Interleaved flows in memory, as a ring holds them: what gpu.py measures on."""

import mmap
from dataclasses import dataclass, replace

import numpy as np
import rewrite

from etcpipe.batch import PacketBatch
from etcpipe.columns import DTYPES
from etcpipe.layout import CONSTANTS

BATCH_MAX = CONSTANTS["BATCH_MAX"]
ETHERNET = 14
SOURCE_AT, DESTINATION_AT = 26, 30  # first octets of the addresses: the same in all flows
SIZES = (60, 1014)  # of frames where only sizes are kept
TIME_NS = 1_700_000_000 * 10**9


@dataclass(frozen=True)
class Case:
    """What is kept of a flow.

    Attributes:
        name: as the paper writes it.
        first_n: packets.
        raw_len: bytes of each from the IP header on, 0 for sizes only.
    """

    name: str
    first_n: int
    raw_len: int


# The five feature sets of the paper.
CASES = (
    Case("[5,500]", 5, 500),
    Case("[10,500]", 10, 500),
    Case("[10,1000]", 10, 1000),
    Case("10 sizes", 10, 0),
    Case("1 x 786", 1, 786),
)


class Load:
    """The first packets of some flows in random order, all in one direction.

    Attributes:
        flows: how many.
        flow: (packets,) int64, the flow of each packet.
        batch: all packets in one batch, of any size.
    """

    def __init__(self, case: Case, flows: int, seed: int = 1):
        random = np.random.default_rng(seed)
        frame_len = ETHERNET + case.raw_len if case.raw_len else SIZES[1]
        # both ends take turns, and the first two packets are empty
        made = rewrite.tls_like_flows(flows, 2 * (case.first_n + 1), frame_len, random)[:, 2::2]
        self.flows, self._frame_len = flows, frame_len
        self.flow = random.permutation(np.repeat(np.arange(flows), case.first_n))
        packets = len(self.flow)
        order = np.argsort(self.flow, kind="stable")
        rank = np.empty(packets, np.int64)
        rank[order] = np.tile(np.arange(case.first_n), flows)
        memory = np.ascontiguousarray(made[self.flow, rank])
        captured = np.full(packets, frame_len, np.uint32)
        if not case.raw_len:
            captured = random.integers(*SIZES, size=packets).astype(np.uint32)
            total = captured - ETHERNET
            memory[:, 16], memory[:, 17] = total >> 8, total & 0xFF
        columns = {name: np.zeros(packets, dtype) for name, dtype in DTYPES.items()}
        columns["offset"][:] = np.arange(packets) * frame_len
        columns["captured"][:] = columns["wire_len"][:] = captured
        columns["timestamp_ns"][:] = TIME_NS
        columns["rank"][:] = rank
        columns["vlan"][:] = CONSTANTS["VLAN_NONE"]
        columns["flow_id"][:] = 1 + self.flow
        self.batch = PacketBatch(memory=_in_pages(memory.ravel()), **columns)

    @property
    def frame_bytes(self) -> int:
        """Bytes of all frames."""
        return int(self.batch.captured.sum())

    def give_new_addresses(self, repeat: int) -> None:
        """Make the frames those of other flows, for who goes by their addresses."""
        frames = self.batch.memory[: self._frame_len * len(self.flow)]
        frames = frames.reshape(len(self.flow), self._frame_len)
        frames[:, SOURCE_AT], frames[:, DESTINATION_AT] = repeat & 0xFF, repeat >> 8 & 0xFF

    def batches(self, repeat: int) -> list[PacketBatch]:
        """Return the packets in batches as a ring gives them; each repeat has flows of its own."""
        ids = self.batch.flow_id + np.uint64(repeat * self.flows)
        whole = replace(self.batch, flow_id=ids)
        parts = [slice(at, at + BATCH_MAX) for at in range(0, len(ids), BATCH_MAX)]
        return [
            replace(whole, **{name: getattr(whole, name)[part] for name in DTYPES})
            for part in parts
        ]


def _in_pages(frames: np.ndarray) -> np.ndarray:
    """Return (bytes,) uint8 in memory of whole pages, as a ring's is: a GPU can read it there."""
    pages = -(-len(frames) // mmap.PAGESIZE)
    memory = np.frombuffer(mmap.mmap(-1, pages * mmap.PAGESIZE), np.uint8)
    memory[: len(frames)] = frames
    return memory
