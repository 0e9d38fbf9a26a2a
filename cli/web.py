"""etcpipe web: a read-only page on the taps of this machine."""

import signal

import click

from etcpipe.cli.common import Verb


@click.command(cls=Verb)
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=9618, help="0: any free one.")
@click.option(
    "--token-file",
    type=click.Path(),
    metavar="FILE",
    help="Ask for the token in FILE; without it one is made, unless ADDRESS is a loopback one.",
)
def web(host: str, port: int, token_file: str | None) -> None:
    """Serve a page on what etcpipe does on this machine; nothing can be changed there.

    It shows the taps of all network namespaces; /metrics is for Prometheus. Where others can
    reach ADDRESS, put a proxy that speaks TLS in front of it.

    \b
    Examples:
      etcpipe web
      etcpipe web --host 0.0.0.0 --token-file /etc/etcpipe/web.token
    """
    from etcpipe.web import server

    # Ends it as Ctrl-C does: uvicorn since 0.29 raises the signal that ended it once more.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        token = server.read_token(token_file, host)
        listening = server.listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        fragment = f"#token={token}" if token and token_file is None else ""
        click.echo(f"http://{shown}:{listening.getsockname()[1]}/{fragment}  Ctrl-C ends", err=True)
        server.serve(listening, host, token)
    except KeyboardInterrupt:
        return
