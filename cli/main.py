"""The entry point: signals first, so that Ctrl-C is quiet from the first moment on."""

import os
import signal
import sys
from types import FrameType

EXIT_TERMINATED = 128 + signal.SIGTERM


def main() -> None:
    """Run the command and exit with its status."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        # Nothing was made yet that must be unmade: while modules load, just die of it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _open_what_is_closed()
    from etcpipe.cli import shortcut

    if shortcut.show(sys.argv[1:], os.environ):
        return
    from etcpipe import runtime

    runtime.use()
    from etcpipe.cli.command import run
    from etcpipe.cli.stopper import interrupt

    if interruptible:
        signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run(sys.argv[1:]))


def _open_what_is_closed() -> None:
    """Let a standard stream that is closed (`>&-`) be /dev/null.

    Python has None for it, and the next file, map or socket would get its number.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode, closefd=False))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(EXIT_TERMINATED)  # unlike the default, runs every `finally`


if __name__ == "__main__":
    main()
