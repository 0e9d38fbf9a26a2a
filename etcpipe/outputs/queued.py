"""Outputs that never keep the pipeline waiting: a bounded queue, and a thread that writes.

What the thread cannot write now, a full disk or a broker that is gone, it tries again until it
can; one line says that it fails and one that it works again. Meanwhile events wait, and once
the queue is full new ones are let go and counted under the reason.
"""

import errno
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from etcpipe.errors import OutputError

log = logging.getLogger(__name__)

# Events that may wait: 50 MB of columns, a minute at a thousand flows a second.
EVENTS_MAX = 65536
RETRY_S = 1.0
TICK_S = 1.0
# At the end, what still waits may take so long to be written.
DRAIN_S = 5.0
CLOSE_S = 10.0

Drop = Callable[[int, str], None]


class Transport(Protocol):
    """Where events go. All methods are called from the output's thread.

    Attributes:
        on_drop: called with the number of events that were taken and lost later, and why.

    Raises:
        OutputError, OSError: it does not work now (from any method); what was to be written
            is offered again.
    """

    on_drop: Drop

    def write(self, events: Any) -> None: ...

    def tick(self) -> None:
        """Do what time asks for; called about each second."""
        ...

    def reopen(self) -> None:
        """Begin anew: a file under its name, a connection."""
        ...

    def close(self) -> None: ...


class Queued:
    """An output with a queue and a thread; a context manager.

    Args:
        name: as the user gave it.
        transport: what writes.
        events_max: events that may wait.

    Attributes:
        patient: the pipeline has ended: wait some seconds for room in the queue.
    """

    def __init__(self, name: str, transport: Transport, events_max: int = EVENTS_MAX):
        self.name = name
        self.patient = False
        self._transport = transport
        transport.on_drop = self._drop
        self._events_max = events_max
        self._changed = threading.Condition()
        self._queue: deque[Any] = deque()
        self._waiting = 0  # events in the queue, and those being written
        self._written = 0
        self._dropped: Counter[str] = Counter()
        self._error: str | None = None
        self._reason = ""
        self._reopen = False
        self._end: float | None = None
        self._thread = threading.Thread(target=self._run, name="etcpipe-output", daemon=True)

    def __enter__(self) -> "Queued":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._end = monotonic() + DRAIN_S
            self._changed.notify_all()
        self._thread.join(DRAIN_S + CLOSE_S)  # what hangs, a dead file server, is left

    def write(self, events: Any) -> None:
        """Take events, or count them as dropped if too many wait. Returns at once, but at the
        end (`patient`) it gives the thread some seconds to make room."""
        n = len(events)
        if not n:
            return
        with self._changed:
            if not self._has_room(n):
                self._dropped[self._reason or "queue_full"] += n
                return
            self._queue.append(events)
            self._waiting += n
            self._changed.notify_all()

    def _has_room(self, n: int) -> bool:
        def room() -> bool:
            return not self._waiting or self._waiting + n <= self._events_max

        return self._changed.wait_for(room, DRAIN_S) if self.patient else room()

    def reopen(self) -> None:
        """Open files and connections anew, before the next event is written."""
        with self._changed:
            self._reopen = True
            self._changed.notify_all()

    def state(self) -> dict[str, Any]:
        """Return events written, waiting, and dropped by reason, and the present error."""
        with self._changed:
            return {
                "output": self.name,
                "written": self._written,
                "waiting": self._waiting,
                "dropped": dict(self._dropped),
                "error": self._error,
            }

    @property
    def dropped(self) -> int:
        """Events that were let go."""
        with self._changed:
            return sum(self._dropped.values())

    def _run(self) -> None:
        while True:
            events = self._next()
            if events is None and self._end is not None:
                break
            if not self._persist(events):
                break
        self._finish()

    def _next(self) -> Any:
        """Return the oldest events, or None after a second, or as the end has come."""
        with self._changed:
            if not self._queue and self._end is None and not self._reopen:
                self._changed.wait(TICK_S)
            return self._queue.popleft() if self._queue else None

    def _persist(self, events: Any) -> bool:
        """Write, again and again if need be; returns False if the end came first."""
        while True:
            try:
                self._attempt(events)
                self._works()
                return True
            except (OSError, OutputError) as error:
                self._fails(error)
            if not self._pause():
                return False

    def _pause(self) -> bool:
        """Wait until it is time to try again, or the end comes; returns False if that is over."""
        with self._changed:
            end = self._end
            wait_s = RETRY_S if end is None else min(RETRY_S, end - monotonic())
            if wait_s > 0:
                self._changed.wait_for(lambda: self._end != end, wait_s)
        return wait_s > 0

    def _attempt(self, events: Any) -> None:
        with self._changed:
            reopen, self._reopen = self._reopen, False
        if reopen:
            self._transport.reopen()
        self._transport.tick()
        if events is not None:
            self._transport.write(events)
            with self._changed:
                self._written += len(events)
                self._waiting -= len(events)
                self._changed.notify_all()

    def _works(self) -> None:
        with self._changed:
            before, self._error, self._reason = self._error, None, ""
            dropped = sum(self._dropped.values())
        if before:
            log.warning("%s: works again; %d events dropped so far", self.name, dropped)

    def _fails(self, error: Exception) -> None:
        text = (error.strerror if isinstance(error, OSError) else None) or str(error)
        with self._changed:
            before, self._error, self._reason = self._error, text, reason_of(error)
        if before is None:
            log.warning("%s: %s; trying again, verdicts wait or are dropped", self.name, text)

    def _finish(self) -> None:
        try:
            self._transport.close()
        except (OSError, OutputError) as error:
            self._fails(error)
        with self._changed:
            if self._waiting:
                self._dropped[self._reason or "end"] += self._waiting
            self._queue.clear()
            self._waiting = 0

    def _drop(self, n: int, reason: str) -> None:
        with self._changed:
            self._dropped[reason] += n


def reason_of(error: BaseException) -> str:
    """Return a failure in one word: the name of its errno, as "enospc", else "failed"."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return errno.errorcode.get(cause.errno, "failed").lower()
        cause = cause.__cause__
    return "failed"
