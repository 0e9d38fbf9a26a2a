"""--split, the option of what verbs hold out; flows at random are refused unless meant."""

from collections.abc import Callable

import click

LEAKS = "--i-know-this-leaks"


def split_options(verb: Callable) -> Callable:
    """Add --split; its value comes as `split`, a name of dataset.SPLITS."""
    verb = click.option(
        LEAKS,
        "leaks",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_remember,
        help="Allow --split flow, whose scores are too good: the same capture is on both sides.",
    )(verb)
    return click.option(
        "--split",
        type=click.Choice(["capture", "host", "time", "flow"]),
        default="capture",
        callback=_check,
        help="What is kept on one side of the split: a capture, or a pair of hosts; time: learn "
        "from the past; flow: nothing.",
    )(verb)


def _remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[LEAKS] = value


def _check(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if value == "flow" and not ctx.meta.get(LEAKS):
        raise click.BadParameter(
            "flows at random leak what is the same all over a capture, so scores are worth "
            f"nothing: split by capture or host, or say {LEAKS}",
            ctx,
            param,
        )
    return value
