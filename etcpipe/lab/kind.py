"""What a kind of traffic is: a server to start, and a client session to run against it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from etcpipe.errors import LabError
from etcpipe.lab.network import Addresses, ip
from etcpipe.lab.processes import (
    Processes,
    Program,
    close_quietly,
    is_listening,
    last_line,
    program_name,
    wait_until,
)

# Starts every file and message that the lab sends: found on the wire, encryption failed.
MARKER = b"etcpipe lab plaintext: must never be readable on the wire\n"
FIRST_LOCAL_PORT = 20000  # below the kernel's ephemeral ports, 32768 and up


@dataclass(frozen=True)
class Kind:
    """One label and how its traffic comes about.

    Attributes:
        name: the label.
        endpoints: (protocol, port or None for any) of the server, for the ground truth.
        serve: starts the servers and returns what sessions need to know of them.
        visit: runs one client session against them.
        exclusive: one session at a time, since sessions share a route.
    """

    name: str
    summary: str
    programs: tuple[Program, ...]
    endpoints: tuple[tuple[str, int | None], ...]
    serve: Callable[["Site"], Any]
    visit: Callable[["Client", Any], None]
    exclusive: bool = False

    @property
    def transport(self) -> str:
        """The transport protocols on the wire: "tcp", "udp" or "tcp, udp"."""
        return ", ".join(sorted({protocol for protocol, _ in self.endpoints}))


@dataclass
class Site:
    """The server side of one kind in one lab: its addresses, its files, its programs.

    Attributes:
        hidden: IPv4 address that only a tunnel of this kind reaches.
        host: the name in the server's certificate, of any length, so that it tells nothing.
        token: eight characters that no other lab running now has.
    """

    kind: Kind
    namespace: str
    addresses: Addresses
    hidden: str
    host: str
    folder: Path
    authority: Path
    rng: np.random.Generator
    processes: Processes
    token: str
    log_numbers: Iterator[int] = field(default_factory=count)

    def ip(self, command: str) -> None:
        """Run an ip command in the server's namespace."""
        ip(self.namespace, command)

    def run(self, argv: list[str], **options: Any) -> None:
        """Run a program of the server's to its end."""
        self.processes.run(self.namespace, argv, self._log(argv), **options)

    def start(
        self,
        argv: list[str],
        *listening: tuple[str, str, int],
        says: str | None = None,
        **options: Any,
    ) -> subprocess.Popen:
        """Start a server; return when it is ready.

        Args:
            listening: (protocol, address, port) of the sockets that mean ready.
            says: text in its log that means ready.
        """
        log = self._log(argv)
        process = self.processes.spawn(self.namespace, argv, log, **options)

        def is_ready() -> bool:
            return all(is_listening(self.namespace, *socket) for socket in listening) and (
                says is None or says in log.read_text(errors="replace")
            )

        wait_until(is_ready, process, log)
        return process

    def _log(self, argv: list[str]) -> Path:
        return self.folder / f"{next(self.log_numbers)}-{Path(argv[0]).name}.log"


@dataclass
class Client:
    """One session of one kind, as its client sees it.

    Attributes:
        address: the server's, IPv4 or IPv6.
        own_address: the client's, of the same family.
        number: counts the sessions of a lab; makes local ports and devices unique.
        speed: pauses are divided by it.
    """

    site: Site
    namespace: str
    address: str
    own_address: str
    folder: Path
    rng: np.random.Generator
    processes: Processes
    number: int
    speed: float
    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def is_ipv6(self) -> bool:
        """Whether this session runs over IPv6."""
        return ":" in self.address

    @property
    def url_address(self) -> str:
        """The server's address as URLs write it."""
        return f"[{self.address}]" if self.is_ipv6 else self.address

    def local_port(self) -> int:
        """Return the first of ten ports that no concurrent session uses."""
        return FIRST_LOCAL_PORT + self.number % 1000 * 10

    def run(self, argv: list[str], **options: Any) -> None:
        """Run a client program to its end."""
        self.processes.run(self.namespace, argv, self._log(argv), **options)

    def start(
        self,
        argv: list[str],
        *,
        says: str | None = None,
        namespace: str | None = None,
        **options: Any,
    ) -> subprocess.Popen:
        """Start a program that lasts for the session; return when its log says that it is ready."""
        log = self._log(argv)
        process = self.processes.spawn(namespace or self.namespace, argv, log, **options)
        self.started.append(process)
        if says:
            wait_until(lambda: says in log.read_text(errors="replace"), process, log)
        return process

    def start_typing(self, argv: list[str], **options: Any) -> "Typist":
        """Start a program that reads its standard input as the session goes on."""
        return Typist(self, self.start(argv, stdin=subprocess.PIPE, **options), self._log(argv))

    def finish(
        self, process: subprocess.Popen, timeout_s: float = 30.0, accept: tuple[int, ...] = (0,)
    ) -> None:
        """Wait for a started program's end.

        Raises:
            LabError: it took longer than timeout_s or its exit code is not accepted.
        """
        name = program_name(process)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise LabError(f"{name} took more than {timeout_s:.0f} s") from None
        if code not in accept:
            raise LabError(f"{name} failed with exit code {code}: {last_line(self._log([name]))}")

    def run_python(self, module: str, *arguments: str, **options: Any) -> None:
        """Run one of the lab's own client programs."""
        self.run([sys.executable, "-m", f"etcpipe.lab.programs.{module}", *arguments], **options)

    def pause(self, seconds: float) -> None:
        """Wait as a person or a timer would.

        Raises:
            LabError: the lab is being closed.
        """
        if self.processes.closing.wait(seconds / self.speed):
            raise LabError("the lab is closed")

    def close(self) -> None:
        """Stop what the session started and has not ended yet."""
        for process in reversed(self.started):
            self.processes.stop(process, grace_s=1.0)

    def _log(self, argv: list[str]) -> Path:
        return self.folder / f"{self.number}-{Path(argv[0]).name}.log"


def command(template: str, **values: Any) -> list[str]:
    """Return the words of a command line, with values filled in.

    A value stays in its word, blanks or not; a list that is a word of its own becomes words.

    >>> command("curl -A {agent} {urls}", agent="a b", urls=["x", "y"])
    ['curl', '-A', 'a b', 'x', 'y']
    """
    words: list[str] = []
    for word in template.split():
        value = values.get(word[1:-1]) if word[0] == "{" and word[-1] == "}" else None
        if isinstance(value, list):
            words += map(str, value)
        else:
            words.append(word.format(**values))
    return words


class Typist:
    """Writes to a program's standard input, with the pauses of the session."""

    def __init__(self, client: Client, process: subprocess.Popen, log: Path) -> None:
        assert process.stdin  # a pipe
        self._client, self._process, self._log = client, process, log
        self._input = process.stdin

    def write(self, text: str) -> None:
        """Write text at once.

        Raises:
            LabError: the program has ended.
        """
        try:
            self._input.write(text.encode())
            self._input.flush()
        except OSError as error:
            raise LabError(f"the program ended early: {last_line(self._log)}") from error

    def finish(self, accept: tuple[int, ...] = (0,)) -> None:
        """Close the input and wait for the program's end.

        Raises:
            LabError: it took too long or failed.
        """
        close_quietly(self._input)
        self._client.finish(self._process, accept=accept)
