"""A tap as the pipeline's source: packets as they come, and what is known of their flows."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import monotonic_ns
from typing import Any

import numpy as np

from etcpipe.batch import FlowBatch, PacketBatch
from etcpipe.columns import PacketColumns
from etcpipe.kernel.features_source import SLICE_S, FeatureSource
from etcpipe.kernel.forward import Forward
from etcpipe.kernel.tap import Tap
from etcpipe.queues import Queues
from etcpipe.ring import Ring
from etcpipe.ringbuf import RingBuffer

AnyRing = Ring | RingBuffer | Queues | FeatureSource  # the last yields rows, not packets

# Packets that may wait for the consumer: some 10 ms at the fastest rate a mirror reaches.
RING_SIZE = 8192

# A batch is empty when nothing came for so long.
IDLE_S = 0.1

# What a ring may still hold at the end: 8192 packets, or 16 MiB of records.
REST_BATCHES_MAX = 64

# Full batches in a row that are handed out without a look at whether more are wanted.
AHEAD_MAX = 32

LENDERS = (Ring, Queues)


def open_ring(tapped: Tap | Forward) -> AnyRing:
    """Return the consuming end of an open tap, by the way that its settings name."""
    settings = tapped.settings
    if settings.capture == "features":
        plan = settings.feature_plan
        return FeatureSource(tapped.records_fd, settings.ringbuf_bytes, tapped.features_fd, plan)
    # a flow that the kernel answered sends no packet that would tell of it
    idle_s = SLICE_S if settings.judges_beside else IDLE_S
    if settings.capture == "ringbuf":
        return RingBuffer(tapped.records_fd, settings.ringbuf_bytes, idle_s)
    with ExitStack() as stack:
        rings = []
        for queue in range(tapped.queues):
            ring = Ring(tapped.mirror_ifindex, queue, ring_size=RING_SIZE, idle_s=idle_s)
            rings.append(stack.enter_context(ring))
            tapped.bind(ring.fd, queue)
        stack.pop_all()
    return rings[0] if len(rings) == 1 else Queues(rings, idle_s)


class TapSource:
    """Yields what comes out of a tap's ring, for as long as it is wanted."""

    def __init__(
        self,
        tapped: Tap | Forward,
        ring: Any,
        goes_on: Callable[[], bool],
        show: Callable[[PacketBatch], object],
    ) -> None:
        """Make one of an open tap.

        Args:
            ring: of open_ring().
            goes_on: asked before each batch.
            show: sees each batch before it is yielded.
        """
        self._tap, self._ring = tapped, ring
        self._goes_on, self._show = goes_on, show
        self._nothing = PacketColumns(0).batch(np.zeros(0, np.uint8), 0)

    def __iter__(self) -> Iterator[PacketBatch]:
        while self._goes_on():
            yield self._next()
        # what the ring still holds, so that every packet is seen or counted as lost
        for _ in range(REST_BATCHES_MAX * self._tap.queues):
            batch = self._next()
            if not len(batch):
                return
            yield batch

    def ahead(self) -> Iterator[PacketBatch]:
        """See etcpipe.pipeline.Lender: another batch comes early where a full one is there.

        Of several queues, where another one has a batch.
        """
        for batch in self:
            yield batch
            for _ in range(AHEAD_MAX):
                another = self._ring.lend() if isinstance(self._ring, LENDERS) else None
                if another is None:
                    break
                self._show(another)
                yield another
            yield self._nothing

    def release(self, batch: PacketBatch) -> None:
        if isinstance(self._ring, LENDERS):
            self._ring.release(batch)

    def _next(self) -> PacketBatch:
        batch = self._ring.receive()
        self._show(batch)
        return batch

    def clock_ns(self) -> int | None:
        # Packets wait in a ring that was not drained: then only their own clock is safe,
        # else a busy moment would close rows whose packets are still to be read.
        return monotonic_ns() if self._ring.is_drained else None

    def records(self, flows: FlowBatch) -> np.ndarray:
        return self._tap.records(flows.key)
