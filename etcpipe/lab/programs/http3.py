"""An HTTP/3 server and client (RFC 9114) of a few lines on aioquic.

Usage: python -m etcpipe.lab.programs.http3 serve ADDRESS CERTIFICATE KEY
       python -m etcpipe.lab.programs.http3 fetch ADDRESS HOST PAUSE PAGE...

The server answers GET /SIZE with SIZE bytes. A PAGE is a list of sizes: the first is
fetched alone, the others at once.
"""

import asyncio
import os
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent

from etcpipe.lab.kind import MARKER

PORT = 443
TIMEOUT_S = 30.0


class Http3(QuicConnectionProtocol):
    """One QUIC connection that speaks HTTP/3; subclasses handle its events."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic)

    def quic_event_received(self, event: QuicEvent) -> None:
        for http_event in self.http.handle_event(event):
            self.http_event_received(http_event)

    def http_event_received(self, event: H3Event) -> None:
        raise NotImplementedError


class Server(Http3):
    """Answers with as many bytes as the path says."""

    def http_event_received(self, event: H3Event) -> None:
        if not isinstance(event, HeadersReceived):
            return
        size = int(dict(event.headers)[b":path"].strip(b"/"))
        body = (MARKER + os.urandom(size))[:size]
        headers = [
            (b":status", b"200"),
            (b"server", b"aioquic"),
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(size).encode()),
        ]
        self.http.send_headers(event.stream_id, headers)
        self.http.send_data(event.stream_id, body, end_stream=True)
        self.transmit()


class Client(Http3):
    """Fetches sizes; each fetch is one stream."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self._ended: dict[int, asyncio.Future] = {}

    async def fetch(self, host: str, size: str) -> None:
        """Return when the whole body has arrived."""
        stream = self._quic.get_next_available_stream_id()
        headers = {
            ":method": "GET",
            ":scheme": "https",
            ":authority": host,
            ":path": f"/{size}",
            "user-agent": "etcpipe-lab",
        }
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._ended[stream] = asyncio.get_running_loop().create_future()
        self.http.send_headers(stream, encoded, end_stream=True)
        self.transmit()
        await self._ended[stream]

    def http_event_received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived | DataReceived) and event.stream_ended:
            self._ended[event.stream_id].set_result(None)


async def serve_forever(address: str, certificate: str, key: str) -> None:
    """Serve until killed."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(certificate, key)
    await serve(address, PORT, configuration=configuration, create_protocol=Server)
    await asyncio.Event().wait()


async def fetch_pages(address: str, host: str, pause_s: float, pages: list[str]) -> None:
    """Fetch the pages over one connection."""
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=H3_ALPN, server_name=host, verify_mode=ssl.CERT_NONE
    )
    async with connect(
        address, PORT, configuration=configuration, create_protocol=Client
    ) as client:
        assert isinstance(client, Client)
        for page in pages:
            first, *others = page.split(",")
            await client.fetch(host, first)
            await asyncio.gather(*(client.fetch(host, size) for size in others))
            await asyncio.sleep(pause_s)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve_forever(*sys.argv[2:]))
    else:
        address, host, pause, *pages = sys.argv[2:]
        asyncio.run(asyncio.wait_for(fetch_pages(address, host, float(pause), pages), TIMEOUT_S))
