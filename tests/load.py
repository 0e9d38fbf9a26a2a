"""Traffic that proves a path loses nothing: numbered datagrams, and a TCP stream by iperf3."""

import json
import socket
import subprocess
import threading
from types import TracebackType

from kernel_fixtures import Wire

from etcpipe.kernel import netns

NEAR, PORT, STREAM_PORT = "10.77.0.1", 9000, 5201
FLOWS = 60
PAUSE_S = 0.005  # between rounds of a datagram a flow: 10,000 a second at most
PLENTY, LONG_PAUSE_S = 60_000, 0.2  # whoever waits longer on a slow machine gets 300 a second
NUMBER_BYTES, PAYLOAD_BYTES = 4, 100
SO_RCVBUFFORCE = 33
ROOM = 128 << 20  # for everything that is sent: the receiver may read late


def udp_socket(namespace: str) -> socket.socket:
    with netns.enter(namespace):
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


class Load:
    """Datagrams of FLOWS flows from the far end into one socket at the near end.

    On leaving the block all of them must have arrived, in order, and neither end's device
    may have dropped anything.
    """

    def __init__(self, wire: Wire, payload_bytes: int = PAYLOAD_BYTES):
        self.sent = 0
        self._wire = wire
        self._rest = bytes(payload_bytes - NUMBER_BYTES)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "Load":
        self._receiver = udp_socket(self._wire.near)
        self._receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        self._receiver.bind((NEAR, PORT))
        self._receiver.settimeout(1)
        self._senders = [udp_socket(self._wire.far) for _ in range(FLOWS)]
        self._dropped_before = dropped(self._wire)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()
        try:
            if kind is None:
                assert self._received() == list(range(self.sent))
                assert dropped(self._wire) == self._dropped_before
        finally:
            for end in (self._receiver, *self._senders):
                end.close()

    def wait_for(self, datagrams: int) -> None:
        """Return when so many more were sent."""
        until = self.sent + datagrams
        while self.sent < until:
            assert self._thread.is_alive()
            self._stopping.wait(0.01)

    def _send(self) -> None:
        while not self._stopping.wait(PAUSE_S if self.sent < PLENTY else LONG_PAUSE_S):
            for sender in self._senders:
                number = self.sent.to_bytes(NUMBER_BYTES, "big")
                sender.sendto(number + self._rest, (NEAR, PORT))
                self.sent += 1

    def _received(self) -> list[int]:
        """Return the numbers of the datagrams that came, until nothing comes for a second."""
        numbers = []
        try:
            while len(numbers) < self.sent:
                numbers.append(int.from_bytes(self._receiver.recv(65536)[:NUMBER_BYTES], "big"))
        except TimeoutError:
            pass
        return numbers


class Stream:
    """A TCP stream from the far end to the near one; the block ends when all bytes are there."""

    def __init__(self, wire: Wire, mbytes: int = 100):
        self._bytes = mbytes << 20
        self._commands = [
            (wire.near, f"iperf3 --forceflush -s -1 -p {STREAM_PORT}"),
            (wire.far, f"iperf3 -J -c {NEAR} -p {STREAM_PORT} -n {self._bytes} -b 400M"),
        ]

    def __enter__(self) -> "Stream":
        self._server, self._client = (self._start(*command) for command in self._commands)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            report = json.loads(self._client.communicate(timeout=60)[0])
            if kind is None:
                assert report["end"]["sum_sent"]["bytes"] >= self._bytes, report
        finally:
            for process in (self._client, self._server):
                process.kill()
                process.communicate()

    @staticmethod
    def _start(namespace: str, command: str) -> subprocess.Popen:
        process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{namespace}", *command.split()],
            stdout=subprocess.PIPE,
            text=True,
        )
        if " -s " in command:
            assert process.stdout
            while "Server listening" not in (line := process.stdout.readline()):
                assert line, "iperf3 ended"
        return process


def dropped(wire: Wire) -> dict[str, int]:
    """Return what both ends' devices dropped in either direction."""
    counts = {}
    for namespace, device in [(wire.near, wire.device), (wire.far, wire.peer)]:
        (shown,) = json.loads(wire.shell(namespace, f"ip -s -j link show dev {device}"))
        for side in ("rx", "tx"):
            counts[f"{device} {side}"] = shown["stats64"][side]["dropped"]
    return counts
