"""Several AF_XDP sockets as one source: a thread waits at each, one reader takes turns.

A thread hands its batch over and touches its ring again only when the reader is done with
it, since the frames are the kernel's again from then on. A flow is always on one queue, so
its packets stay in order.
"""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from queue import Empty, SimpleQueue

from etcpipe.batch import PacketBatch
from etcpipe.receiver import Receiver
from etcpipe.ring import BATCH_MAX, LENT_MAX, Ring


class Queues(Receiver):
    """Reads from all rings; a context manager that closes them.

    Args:
        rings: at least one, bound to queues of one device; not to be used elsewhere.
        idle_s: receive() returns an empty batch when nothing came for so long.
    """

    def __init__(self, rings: Sequence[Ring], idle_s: float = 0.1):
        self._rings = list(rings)
        self._idle_s = idle_s
        self._ready: SimpleQueue[tuple[int, PacketBatch | Exception]] = SimpleQueue()
        self._done = [threading.Semaphore(0) for _ in self._rings]
        self._full = [False] * len(self._rings)
        self._lent: list[tuple[int, PacketBatch]] = []  # with the queue of each
        self._stopping = False
        self._empty = self._rings[0].no_packets()
        self._threads = [
            threading.Thread(target=self._wait, args=(queue,), name=f"queue {queue}", daemon=True)
            for queue in range(len(self._rings))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_drained(self) -> bool:
        return self._ready.empty() and not any(self._full)

    def receive(self) -> PacketBatch:
        """Return the next batch of some queue, valid until release() or the next call.

        Raises:
            DataplaneError: the device is gone.
        """
        for _, lent in tuple(self._lent):
            self.release(lent)
        try:
            queue, batch = self._ready.get(timeout=self._idle_s)
        except Empty:
            return self._empty
        if isinstance(batch, Exception):
            raise batch
        return self._lend(queue, batch)

    def lend(self) -> PacketBatch | None:
        """Return the batch that another queue has, beside those that are out.

        It is valid until release(), or the next receive(). None also where LENT_MAX are out.
        """
        if len(self._lent) >= LENT_MAX:
            return None
        try:
            queue, batch = self._ready.get_nowait()
        except Empty:
            return None
        if isinstance(batch, Exception):
            self._ready.put((queue, batch))  # for the next receive()
            return None
        return self._lend(queue, batch)

    def release(self, batch: PacketBatch) -> None:
        """Let a batch's queue have the frames again; nothing happens if it has them."""
        for place, (queue, lent) in enumerate(self._lent):
            if lent is batch:
                del self._lent[place]
                self._done[queue].release()
                return

    def statistics(self) -> dict[str, int]:
        """Return what the kernel did not deliver on all queues, by reason."""
        each = [ring.statistics() for ring in self._rings]
        return {name: sum(counts[name] for counts in each) for name in each[0]}

    def close(self) -> None:
        """Stop the threads and free the queues."""
        self._stopping = True
        for done in self._done:
            done.release()
        with ExitStack() as stack:
            for ring in self._rings:
                stack.callback(ring.close)
            for thread in self._threads:
                thread.join()

    def _lend(self, queue: int, batch: PacketBatch) -> PacketBatch:
        self._lent.append((queue, batch))
        self._full[queue] = len(batch) == BATCH_MAX
        return batch

    def _wait(self, queue: int) -> None:
        ring = self._rings[queue]
        while not self._stopping:
            try:
                batch = ring.receive()
            except Exception as error:  # of any kind: without it the queue would only fall silent
                self._ready.put((queue, error))
                return
            if len(batch):
                self._ready.put((queue, batch))
                self._done[queue].acquire()
            else:
                self._full[queue] = False  # the full batch before this one was the last
