"""Signals that end a long run: in good order the first time, at once the second time.

Python drops what a signal's handler raises while certain callbacks run, those at the end of an
import among them. So that a signal came is remembered, and looked at again where a run begins.
"""

import signal
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_came: list[int] = []  # before there was a Stopper


def interrupt(number: int, frame: FrameType | None) -> None:
    """Handle a signal by KeyboardInterrupt, which the next Stopper raises again if it was lost."""
    _came.append(number)
    raise KeyboardInterrupt


class Stopper:
    """Turns signals into a stop; a context manager that restores the handlers.

    Before stops() was called a signal raises KeyboardInterrupt, so that a half-made set-up
    is unwound. After it the first signal calls the given function and the second one
    raises. After leave(), or once it has raised, signals are ignored: what is being taken
    down must come down whole.
    """

    def __init__(self) -> None:
        self._stop: Callable[[], object] | None = None
        self._hang_up: Callable[[], object] | None = None
        self._ignores = False
        self._before: dict[signal.Signals, object] = {}

    def stops(self, stop: Callable[[], object]) -> None:
        """From now on a signal calls this; at once, if what it raised before was lost."""
        self._stop = stop
        if self._ignores:
            stop()

    def hangs_up(self, call: Callable[[], object]) -> None:
        """From now on SIGHUP calls this, and ends nothing."""
        self._hang_up = call

    def leave(self) -> None:
        """From now on signals are ignored."""
        self._ignores = True

    def __enter__(self) -> "Stopper":
        if _came:
            raise KeyboardInterrupt
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._ignores:
            return
        if number == signal.SIGHUP and self._hang_up:
            self._hang_up()
            return
        if self._stop is None:
            self._ignores = True
            raise KeyboardInterrupt
        stop, self._stop = self._stop, None
        stop()
