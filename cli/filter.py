"""etcpipe filter: which packets a tap looks at, changed while it runs."""

import click

from etcpipe.cli.common import Device, Verb, is_json, option, print_json
from etcpipe.errors import UsageError


@click.command(cls=Verb)
@click.argument("device", type=Device())
@click.argument("words", metavar="[EXPR]...", nargs=-1)
@click.option("--clear", is_flag=True, help="Look at all packets again.")
@click.pass_context
def filter(ctx: click.Context, device: str, words: tuple[str, ...], clear: bool) -> None:
    """Show or change which packets the tap on DEVICE looks at, as in tcpdump.

    No packet is missed or seen twice during the change. Flows whose packets the filter leaves
    out end by their timeout.

    \b
    Examples:
      etcpipe filter eth0 tcp port 443 or udp port 443
      etcpipe filter eth0
      etcpipe filter eth0 --clear
    """
    from etcpipe.kernel import filters

    if clear and words:
        raise UsageError("filter: give an expression or --clear, not both")
    netns = option(ctx, "netns")
    if words or clear:
        filters.set_filter(device, netns, " ".join(words) or None)
        return
    expression = filters.current(device, netns)
    if is_json(ctx):
        print_json(ctx, {"device": device, "filter": expression})
    elif expression:
        click.echo(expression)
    else:
        click.echo(f"{device}: no filter, all packets are looked at", err=True)
