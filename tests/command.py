"""The etcpipe command: as a process of its own, as users run it, or within this one."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from etcpipe.cli import command

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "tests" / "data" / "lab"
TIMEOUT_S = 60

ETCPIPE = [sys.executable, "-m", "etcpipe.cli.main"]
# The same, interrupted so many seconds after its own code began (the first argument). While
# the interpreter itself starts, Ctrl-C meets a traceback of Python's, in any program.
INTERRUPTED = """
import os, signal, sys, threading
from etcpipe.cli.main import main
signal.signal(signal.SIGINT, signal.SIG_DFL)
threading.Timer(float(sys.argv.pop(1)), os.kill, (os.getpid(), signal.SIGINT)).start()
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


def run(
    *args: str | Path, wrapper: Sequence[str] = (), check: int | None = None, **options
) -> subprocess.CompletedProcess:
    """Run etcpipe and return what came out; `check` is the exit status it must have."""
    done = subprocess.run(
        [*wrapper, *ETCPIPE, *map(str, args)],
        capture_output=True,
        text=options.pop("text", True),
        timeout=TIMEOUT_S,
        cwd=ROOT,
        check=False,
        **options,
    )
    return _checked(done, check)


def run_inside(*args: str | Path, check: int | None = None) -> subprocess.CompletedProcess:
    """The same without a process, a third of a second less: for verbs that only read and say."""
    words = list(map(str, args))
    said = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(stream, encoding="utf-8", write_through=True) for stream in said)
    with redirect_stdout(out), redirect_stderr(err):
        status = command.run(words)
    texts = [stream.getvalue().decode() for stream in said]
    return _checked(subprocess.CompletedProcess(words, status, *texts), check)


def _checked(done: subprocess.CompletedProcess, check: int | None) -> subprocess.CompletedProcess:
    if check is not None:
        assert done.returncode == check, (done.returncode, done.stdout, done.stderr)
    return done


def fails(*args: str | Path, status: int, inside: bool = False, **options) -> str:
    """Run etcpipe, which must fail with one line on standard error, and return that line."""
    done = (run_inside if inside else run)(*args, check=status, **options)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("etcpipe: ")
    return lines[0].removeprefix("etcpipe: ")


class Running:
    """An etcpipe that runs beside the test; a context manager that ends it."""

    def __init__(self, *args: str | Path, folder: Path, command: Sequence[str] = ETCPIPE):
        self._out, self._err = folder / "stdout", folder / "stderr"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
            self.process = subprocess.Popen(
                [*command, *map(str, args)],
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env=environment,
            )

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # it takes its tap down, also where a test failed
        try:
            self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; fail if the process ends or time runs out first."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert self.process.poll() is None, (self.process.returncode, self.stderr)
            assert time.monotonic() < deadline, (self.stdout, self.stderr)
            time.sleep(0.02)

    def until_attached(self) -> None:
        """Wait until etcpipe attach says that it is up."""
        self.until(lambda: ": attached, " in self.stderr)

    def signalled(self, number: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)
