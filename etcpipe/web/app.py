"""The web application: a page, two addresses with data, and nothing that changes anything.

    GET /                   the page; it holds no data itself
    GET /api/movements      what taps did, as `etcpipe -j monitor` prints it; ?after=UNIX_TIME
    GET /metrics            Prometheus metrics of all taps

With a token, the data needs the header "Authorization: Bearer TOKEN".
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from etcpipe.outputs import prometheus
from etcpipe.outputs.watch import read_reports
from etcpipe.web.history import EVERY_S, History

PAGE = Path(__file__).parent / "page"
LOOPBACK = ("localhost", "127.0.0.1", "::1")

# The page loads nothing from elsewhere, and is in nobody's frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Endpoint = Callable[[Request], Awaitable[Response]]


def application(hosts: Sequence[str], token: str | None = None) -> Starlette:
    """Return the application.

    Args:
        hosts: names that a request may be for ("*": any), so that no page from elsewhere can
            read a loopback port by a name of its own (DNS rebinding).
        token: what a request for data must show; None: nothing.
    """
    history = History()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(_sample(history))
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return Starlette(
        routes=[
            Route("/api/movements", guarded(movements(history), token), methods=["GET"]),
            Route("/metrics", guarded(metrics, token), methods=["GET"]),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[Middleware(Shell, hosts=hosts)],
        lifespan=lifespan,
    )


def guarded(endpoint: Endpoint, token: str | None) -> Endpoint:
    """Return an endpoint that answers only to who shows the token."""

    async def answer(request: Request) -> Response:
        shown = request.headers.get("authorization", "").encode()
        if token is not None and not hmac.compare_digest(shown, f"Bearer {token}".encode()):
            return PlainTextResponse("token?", 401, {"WWW-Authenticate": "Bearer"})
        return await endpoint(request)

    return answer


def movements(history: History) -> Endpoint:
    """Return the endpoint with what taps did."""

    async def answer(request: Request) -> Response:
        try:
            after = float(request.query_params.get("after", 0))
        except ValueError:
            return PlainTextResponse("after is a Unix time", 400)
        return JSONResponse(history.since(after))

    return answer


async def metrics(request: Request) -> Response:
    """Answer with Prometheus metrics."""
    text = await asyncio.to_thread(lambda: prometheus.render(read_reports()))
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


class Shell:
    """Refuses requests for names that are not ours, and adds HEADERS (ASGI middleware)."""

    def __init__(self, app: Any, hosts: Sequence[str]):
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        app = self._app
        if scope["type"] == "http" and not self._is_ours(dict(scope["headers"])):
            app = PlainTextResponse("no such host", 400)
        await app(scope, receive, with_headers)

    def _is_ours(self, headers: dict[bytes, bytes]) -> bool:
        host = headers.get(b"host", b"").decode("latin-1")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return "*" in self._hosts or name in self._hosts


async def _sample(history: History) -> None:
    while True:
        await asyncio.to_thread(history.sample)
        await asyncio.sleep(EVERY_S)
