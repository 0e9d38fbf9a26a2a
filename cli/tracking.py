"""Options on which packets make flows, the same for live traffic and captures."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import click

from etcpipe import timeouts as times
from etcpipe.errors import UsageError
from etcpipe.layout import COUNT_RULES
from etcpipe.parsing import parse_key


def _parsed(parse: Callable[[str], Mapping[str, Any]]) -> Callable[..., Mapping[str, Any]]:
    def callback(ctx: click.Context, param: click.Parameter, text: str | None) -> Mapping[str, Any]:
        try:
            return parse(text) if text else {}
        except UsageError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return callback


OPTIONS = (
    click.option(
        "--counting",
        type=click.Choice(list(COUNT_RULES)),
        help="Packets that count towards the first N; default: as the model was trained.",
    ),
    click.option(
        "--sample",
        callback=_parsed(times.parse_sample),
        metavar="1/K",
        help="Track one flow of K, chosen by a hash of its key; 1/K:SEED chooses others.",
    ),
    click.option(
        "--timeouts",
        callback=_parsed(times.parse),
        metavar="NAME=S,...",
        help="Seconds after which flows end: establish=5,idle=120,active=1800,tombstone=30.",
    ),
    click.option(
        "--max-flows",
        type=click.IntRange(64, 1 << 26),
        metavar="N",
        help="Room in the flow table; default of attach: 65536.",
    ),
    click.option(
        "--decap",
        is_flag=True,
        help="Look at the flows inside GRE, VXLAN, GENEVE, GTP-U, IP in IP, MPLS and PPPoE.",
    ),
    click.option(
        "--key",
        callback=_parsed(parse_key),
        metavar="vlan,tunnel",
        help="Add VLAN ids to a flow's key, or the tunnel's id (with --decap).",
    ),
)


def tracking_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets them as one dict `tracking`, names as TapSettings'."""

    @wraps(command)
    def with_tracking(
        *args: Any,
        counting: str | None,
        sample: Mapping[str, int],
        timeouts: Mapping[str, float],
        max_flows: int | None,
        decap: bool,
        key: Mapping[str, bool],
        **others: Any,
    ) -> Any:
        tracking = {**sample, **timeouts, **key, **({"count": counting} if counting else {})}
        if max_flows is not None:
            tracking["max_flows"] = max_flows
        if decap:
            tracking["decap"] = True
        return command(*args, tracking=tracking, **others)

    for option in reversed(OPTIONS):
        with_tracking = option(with_tracking)
    return with_tracking
