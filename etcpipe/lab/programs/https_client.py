"""Fetches over one HTTPS connection, at once or as a video player does.

Usage: python -m etcpipe.lab.programs.https_client fetch ADDRESS HOST PATH...
       python -m etcpipe.lab.programs.https_client play ADDRESS HOST PLAYLIST SECONDS SPEED
"""

import http.client
import socket
import ssl
import sys
import time

START_BUFFER_S = 3.0


class Connection(http.client.HTTPSConnection):
    """HTTPS to a given address, whatever the host's name says."""

    def __init__(self, address: str, host: str) -> None:
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        super().__init__(host, context=self._tls, timeout=20)
        self._address = address

    def connect(self) -> None:
        raw = socket.create_connection((self._address, 443), timeout=20)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._tls.wrap_socket(raw, server_hostname=self.host)

    def get(self, path: str) -> bytes:
        """Return the body at path over the connection, which stays open."""
        self.request("GET", path, headers={"Accept": "*/*", "User-Agent": "python"})
        response = self.getresponse()
        body = response.read()
        if response.status != 200:
            raise SystemExit(f"{path}: HTTP status {response.status}")
        return body


def segments_of(playlist: str) -> list[tuple[float, str]]:
    """Return (duration in seconds, name) of each segment of a media playlist (RFC 8216)."""
    segments, duration = [], 0.0
    for line in playlist.splitlines():
        if line.startswith("#EXTINF:"):
            duration = float(line[len("#EXTINF:") :].split(",")[0])
        elif line and not line.startswith("#"):
            segments.append((duration, line))
    return segments


def fetch(address: str, host: str, *paths: str) -> None:
    """Fetch paths one after another."""
    connection = Connection(address, host)
    for path in paths:
        connection.get(path)
    connection.close()


def play(address: str, host: str, path: str, seconds: float, speed: float) -> None:
    """Fetch segments, no more than START_BUFFER_S ahead of a playback that starts at once."""
    connection = Connection(address, host)
    folder = path.rsplit("/", 1)[0]
    begun, fetched_s = time.monotonic(), 0.0
    for duration, name in segments_of(connection.get(path).decode()):
        if fetched_s >= seconds:
            break
        played_s = (time.monotonic() - begun) * speed
        time.sleep(max(0.0, fetched_s - played_s - START_BUFFER_S) / speed)
        connection.get(f"{folder}/{name}")
        fetched_s += duration
    connection.close()


if __name__ == "__main__":
    if sys.argv[1] == "fetch":
        fetch(*sys.argv[2:])
    else:
        address, host, path, seconds, speed = sys.argv[2:]
        play(address, host, path, float(seconds), float(speed))
