"""Two guards around set-up and take-down: nothing half done, no raw errno for the user."""

import errno
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from etcpipe.errors import DataplaneError, PermissionDeniedError

HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def no_interrupt() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a terminal that goes wait until the block is through.

    Python runs signal handlers in the main thread only, so elsewhere there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in HELD}
    for number in HELD:
        signal.signal(number, lambda received, _frame: came.append(received))
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: set by C code, which Python cannot name and put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def explained(device: str) -> Iterator[None]:
    """Turn what the system refused into one of our errors, which say it in a line."""
    try:
        yield
    except OSError as error:
        what = error.filename or error.strerror
        if error.errno in (errno.EPERM, errno.EACCES):
            raise PermissionDeniedError(f"{device}: not permitted ({what}): run as root") from error
        raise DataplaneError(f"{device}: {error.strerror} ({what})") from error
