"""etcpipe web: a read-only page on the taps of this machine."""

import signal

import click

from etcpipe.cli.common import Verb
from etcpipe.cli.service import ctrl_c_ends


@click.command(cls=Verb)
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9618,
    help="Port to listen on; 0: any free one.",
)
@click.option(
    "--token-file",
    type=click.Path(),
    metavar="FILE",
    help="Require the token in FILE; without FILE one is made, unless ADDRESS is loopback.",
)
def web(host: str, port: int, token_file: str | None) -> None:
    """Serve a read-only page that shows what etcpipe does on this machine.

    It shows the taps of all network namespaces; /metrics is for Prometheus. If others can reach
    ADDRESS, put a proxy with TLS in front of it.

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
        address = f"http://{shown}:{listening.getsockname()[1]}/{fragment}"
        click.echo(f"{address}{ctrl_c_ends('  ')}", err=True)
        server.serve(listening, host, token)
    except KeyboardInterrupt:
        return
