"""Programs of the lab: found, started inside a namespace, and stopped with certainty."""

import glob
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from etcpipe.errors import LabError

STOP_GRACE_S = 3.0
POLL_S = 0.02
READY_TIMEOUT_S = 30.0  # of a busy machine
# Servers live in sbin, PostgreSQL's in a directory of its version; neither is on every PATH.
EXTRA_PATH = ["/usr/sbin", "/sbin", *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
# All that programs see of the caller's environment: no proxies, no locale, no home.
KEPT_VARIABLES = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR")
OWN_VARIABLES = {"LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}


@dataclass(frozen=True)
class Program:
    """An executable, or a Python module, and the package that brings it, Debian's or PyPI's."""

    name: str
    package: str
    is_module: bool = False
    is_from_pypi: bool = False

    def is_installed(self) -> bool:
        """Return whether the lab can use it here."""
        if self.is_module:
            return importlib.util.find_spec(self.name) is not None
        return find_program(self.name) is not None


def find_program(name: str) -> str | None:
    """Return the path of an executable, servers' directories included, or None."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), *EXTRA_PATH])
    return shutil.which(name, path=search)


class Processes:
    """Starts programs in namespaces; close() stops every one of them.

    Safe to use from several threads. After close() nothing starts any more.

    Attributes:
        closing: set when close() begins.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen] = []
        self.closing = threading.Event()

    def spawn(
        self,
        namespace: str,
        argv: list[str],
        log: Path,
        *,
        user: str | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen:
        """Start argv in a namespace, in a session of its own, output to the log file.

        Args:
            user: run as this user where the program refuses root.
            environment: variables to add.
            stdin: DEVNULL or PIPE.

        Raises:
            LabError: close() has begun.
        """
        with log.open("ab") as output, self._lock:
            if self.closing.is_set():
                raise LabError("the lab is closed")
            process = subprocess.Popen(
                _command(namespace, argv, user),
                stdin=stdin,
                stdout=output,
                stderr=output,
                env={**_environment(), **environment},
                start_new_session=True,
            )
            self._running.append(process)
        return process

    def run(
        self,
        namespace: str,
        argv: list[str],
        log: Path,
        *,
        timeout_s: float = 60.0,
        accept: tuple[int, ...] = (0,),
        **options: Any,
    ) -> None:
        """Run argv to its end; options are those of spawn.

        Raises:
            LabError: it took longer than timeout_s or its exit code is not accepted.
        """
        process = self.spawn(namespace, argv, log, **options)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(f"{argv[0]} took more than {timeout_s:.0f} s") from None
        finally:
            self.stop(process, grace_s=0)
        if code not in accept:
            raise LabError(f"{argv[0]} failed with exit code {code}: {last_line(log)}")

    def stop(self, process: subprocess.Popen, grace_s: float = STOP_GRACE_S) -> None:
        """End a program and its children: SIGTERM, then SIGKILL after grace_s."""
        if process.poll() is None and grace_s:
            _signal_group(process, signal.SIGTERM)
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                pass  # SIGKILL below
        _signal_group(process, signal.SIGKILL)
        process.wait()
        if process.stdin:
            close_quietly(process.stdin)
        with self._lock:
            if process in self._running:
                self._running.remove(process)

    def close(self) -> None:
        """Stop everything that still runs, the youngest first: clients before servers."""
        with self._lock:
            self.closing.set()
            running = self._running[::-1]
        for process in running:
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_GRACE_S
        for process in running:
            self.stop(process, grace_s=max(0.01, deadline - time.monotonic()))


def wait_until(
    ready: Callable[[], bool],
    process: subprocess.Popen,
    log: Path,
    timeout_s: float = READY_TIMEOUT_S,
) -> None:
    """Wait until ready() is true.

    Raises:
        LabError: the process ended first, or timeout_s passed.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        if process.poll() is not None:
            raise LabError(f"{program_name(process)} ended at its start: {last_line(log)}")
        if time.monotonic() > deadline:
            raise LabError(f"{program_name(process)} is not ready after {timeout_s:.0f} s")
        time.sleep(POLL_S)


def is_listening(namespace: str, protocol: str, address: str, port: int) -> bool:
    """Return whether a socket in the namespace is bound to the address and port."""
    option = {"tcp": "-Hltn", "udp": "-Hlun"}[protocol]
    listing = subprocess.run(
        ["ss", "-N", namespace, option, f"sport = :{port}"], capture_output=True, text=True
    ).stdout
    host = f"[{address}]" if ":" in address else address
    # A socket bound to a device as well shows as ADDRESS%DEVICE:PORT.
    bound = {re.sub(r"%[^:\]]+", "", line.split()[3]) for line in listing.splitlines()}
    return bool(bound & {f"{host}:{port}", f"*:{port}", f"0.0.0.0:{port}"})


def program_name(process: subprocess.Popen) -> str:
    """Return the name of the program, without what put it into its namespace."""
    argv = process.args
    assert isinstance(argv, list)  # as _command made it
    return Path(argv[8] if argv[4] == "setpriv" else argv[4]).name


def close_quietly(stream: IO[bytes]) -> None:
    """Close a pipe to a program that may have ended with input unread."""
    try:
        stream.close()
    except OSError:
        pass


def last_line(log: Path) -> str:
    """Return the last line that a program wrote, for an error message."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].strip() if lines else "it said nothing"


def _command(namespace: str, argv: list[str], user: str | None) -> list[str]:
    program = find_program(argv[0]) or argv[0]
    as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user else []
    return ["ip", "netns", "exec", namespace, *as_user, program, *argv[1:]]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {**kept, **OWN_VARIABLES}


def _signal_group(process: subprocess.Popen, number: int) -> None:
    try:
        os.killpg(process.pid, number)  # start_new_session: the group has the leader's id
    except ProcessLookupError:
        pass  # the whole group has ended
