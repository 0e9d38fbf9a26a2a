"""The lab: a network, servers of the chosen kinds, and client sessions against them."""

import os
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from etcpipe.errors import LabError, PermissionDeniedError
from etcpipe.lab.certificates import make_authority
from etcpipe.lab.kind import Client, Kind, Site
from etcpipe.lab.leftovers import make_folder, remove_lab, remove_stale_labs
from etcpipe.lab.network import AddressPlan, Links, Network, namespaces_of
from etcpipe.lab.processes import Processes, wait_until
from etcpipe.lab.requirements import choose_kinds
from etcpipe.lab.truth import Truth

CONCURRENT_SESSIONS = 8
CONCURRENT_STARTS = 4
IPV6_SHARE = 0.25
RTT_MS = (2.0, 80.0)
RATES_MBIT = (20.0, 50.0, 100.0, 200.0)


@dataclass(frozen=True)
class Session:
    """A finished session; error is empty where ok."""

    label: str
    ok: bool
    error: str
    seconds: float


class Lab:
    """Client, router and server namespaces with real servers; a context manager.

    Args:
        kinds: labels to have servers of; None: every one whose programs are installed.
        seed: draws addresses, link rate, contents and what sessions do.
        offloads: leave TSO, GSO and GRO on, so that frames exceed the MTU.
        rate_mbit: rate of the links; None: drawn from the seed, 0: not limited.
        rtt_ms: range from which each server's round-trip time is drawn; None: no delay, and
            nothing but the kernel between client and server.

    Attributes:
        client, router, server: names of the namespaces.
        device: the router's interface towards the client.
        truth: the servers' addresses and ports, with their labels.

    Raises:
        LabError: unknown kind, missing programs, a server that does not start.
        PermissionDeniedError: not root.
    """

    device = "lab0"

    def __init__(
        self,
        kinds: Iterable[str] | None = None,
        seed: int = 1,
        offloads: bool = False,
        rate_mbit: float | None = None,
        rtt_ms: tuple[float, float] | None = RTT_MS,
    ) -> None:
        self.kinds = choose_kinds(kinds)
        self.seed = seed
        rng = np.random.default_rng([seed, 0])
        drawn = float(rng.choice(RATES_MBIT))
        self.links = Links(offloads, drawn if rate_mbit is None else float(rate_mbit), rtt_ms)
        self._plan = AddressPlan(rng)
        self._numbers = count()

    def __enter__(self) -> "Lab":
        if os.geteuid():
            raise PermissionDeniedError("the lab makes network namespaces: run it as root")
        remove_stale_labs()
        self.folder, self._lock = make_folder()
        self.name = self.folder.name
        self.client, self.router, self.server = namespaces_of(self.name)
        self._servers = Processes()
        self._started = [self._servers]
        try:
            self._network = Network(self.name, self._plan, self.links)
            self._join_server()
            self._start_servers()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop every program, delete the namespaces and the files."""
        for processes in reversed(self._started):
            processes.close()
        remove_lab(self.name, self.folder)
        self._lock.close()

    def run(
        self, sessions: int = 3, speed: float = 1.0, concurrent: int = CONCURRENT_SESSIONS
    ) -> Iterator[Session]:
        """Run each kind `sessions` times, interleaved; yield each session when it ends.

        Args:
            speed: pauses are divided by it; what programs do in between is not.
            concurrent: sessions at once.
        """
        turns = [kind for _ in range(sessions) for kind in self._shuffled()]
        serial = {kind.name: threading.Lock() for kind in self.kinds}
        clients = Processes()
        self._started.append(clients)
        executor = ThreadPoolExecutor(concurrent)
        try:
            pending = {
                executor.submit(
                    self._session, self._make_client(kind, clients, speed), serial[kind.name]
                )
                for kind in turns
            }
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            clients.close()  # sessions that are not done fail, and their threads end
            executor.shutdown(wait=True, cancel_futures=True)

    def _shuffled(self) -> list[Kind]:
        rng = np.random.default_rng([self.seed, next(self._numbers), 2])
        return [self.kinds[int(index)] for index in rng.permutation(len(self.kinds))]

    def _join_server(self) -> None:
        """Start what delays packets between router and server, where a delay is wanted."""
        if not self.links.rtt_ms:
            return
        log = self.folder / "delay.log"
        ends = [self.router, "lab1", self.server, "wan0"]
        delay = [str(self.seed), *map(str, self.links.rtt_ms)]
        argv = [sys.executable, "-m", "etcpipe.lab.programs.delay", *ends, *delay]
        process = self._servers.spawn(self.router, argv, log)
        wait_until(lambda: "joined" in log.read_text(), process, log)

    def _start_servers(self) -> None:
        authority = make_authority(self.folder)
        self._sites = {kind.name: self._make_site(kind, authority) for kind in self.kinds}
        self._served: dict[str, Any] = {}
        with ThreadPoolExecutor(CONCURRENT_STARTS) as executor:
            starts = [executor.submit(kind.serve, self._sites[kind.name]) for kind in self.kinds]
            try:
                for kind, start in zip(self.kinds, starts, strict=True):
                    self._served[kind.name] = start.result()
            except BaseException as error:
                self._servers.close()  # the other starts fail, and their threads end
                if isinstance(error, LabError):
                    raise LabError(f"{kind.name}: {error}") from error
                raise
        self.truth = [
            Truth(kind.name, address, protocol, port)
            for kind in self.kinds
            for address in self._sites[kind.name].addresses
            for protocol, port in kind.endpoints
        ]

    def _make_site(self, kind: Kind, authority: Path) -> Site:
        addresses = self._plan.server()
        self._network.add_server(addresses)
        hidden = f"192.0.2.{1 + self.kinds.index(kind)}"  # RFC 5737: nobody's
        self._network.add_hidden(hidden)
        folder = self.folder / kind.name
        folder.mkdir()
        rng = np.random.default_rng([self.seed, zlib.crc32(kind.name.encode())])
        return Site(
            kind=kind,
            namespace=self.server,
            addresses=addresses,
            hidden=hidden,
            host=_invent_host(rng),
            folder=folder,
            authority=authority,
            rng=rng,
            processes=self._servers,
            token=self.name.rsplit("-", 1)[1],
        )

    def _session(self, client: Client, serial: threading.Lock) -> Session:
        if not client.site.kind.exclusive:
            return self._visit(client)
        with serial:
            return self._visit(client)

    def _visit(self, client: Client) -> Session:
        kind = client.site.kind
        begun = time.monotonic()
        error = ""
        try:
            kind.visit(client, self._served[kind.name])
        except LabError as raised:
            error = str(raised)
        finally:
            client.close()
        return Session(kind.name, not error, error, time.monotonic() - begun)

    def _make_client(self, kind: Kind, clients: Processes, speed: float) -> Client:
        number = next(self._numbers)
        site = self._sites[kind.name]
        rng = np.random.default_rng([self.seed, zlib.crc32(kind.name.encode()), number])
        family = int(rng.random() < IPV6_SHARE)
        folder = site.folder / f"session-{number}"
        folder.mkdir()
        return Client(
            site=site,
            namespace=self.client,
            address=list(site.addresses)[family],
            own_address=list(self._plan.client)[family],
            folder=folder,
            rng=rng,
            processes=clients,
            number=number,
            speed=speed,
        )


def _invent_host(rng: np.random.Generator) -> str:
    letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), size=rng.integers(3, 20))
    return "".join(letters) + str(rng.choice([".example", ".test", ".example.org"]))
