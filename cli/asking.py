"""Options on which model answers and what it is shown, the same for live traffic and captures."""

from collections.abc import Callable

import click

MODEL = (
    click.option(
        "-m", "--model", type=click.Path(), help="Model file; default: the one that ships."
    ),
    click.option(
        "--cascade",
        type=click.Path(),
        metavar="FILE",
        help="A cascade (.toml) of models: flows are answered as soon as one is sure.",
    ),
)
ROWS = (
    click.option("--first", type=int, metavar="N", help="Packets of a flow to look at."),
    click.option(
        "--wait", type=float, metavar="S", help="Judge a flow that was silent for so many seconds."
    ),
    click.option(
        "--filter", "expression", metavar="EXPR", help="Packets to look at, as in tcpdump."
    ),
)


def model_options(verb: Callable) -> Callable:
    """Add --model and --cascade."""
    return _with(verb, MODEL)


def rows_options(verb: Callable) -> Callable:
    """Add --first, --wait and --filter, whose value comes as `expression`."""
    return _with(verb, ROWS)


def _with(verb: Callable, options: tuple[Callable[[Callable], Callable], ...]) -> Callable:
    for option in reversed(options):
        verb = option(verb)
    return verb
