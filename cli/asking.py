"""Options on which model answers and what it is shown, the same for live traffic and captures.

They are named as the parameters of etcpipe.attach() and etcpipe.classify().
"""

from collections.abc import Callable

import click

from etcpipe.cli.common import ModelFile

MODEL_HELP = (
    "A model file, or the name of one that ships (`etcpipe model list`); without: `default`."
)

FIRST_N = click.IntRange(1, 64)
WAIT_S = click.FloatRange(0, 86400, min_open=True)

MODEL = (
    click.option("-m", "--model", type=ModelFile(), metavar="MODEL", help=MODEL_HELP),
    click.option(
        "--cascade",
        type=click.Path(),
        metavar="FILE",
        help="A cascade of models, a .toml or a model file that holds one: the first model that "
        "is sure answers a flow.",
    ),
)
ROWS = (
    click.option(
        "--first",
        "first_n",
        type=FIRST_N,
        metavar="N",
        help="Packets of a flow to look at; default: as the model was trained.",
    ),
    click.option(
        "--wait",
        "wait_s",
        type=WAIT_S,
        metavar="S",
        help="Judge a flow after this many seconds of silence; default: as the model was trained.",
    ),
    click.option(
        "--filter", metavar="EXPR", help="Which packets to look at, in the syntax of tcpdump."
    ),
)


def model_options(verb: Callable) -> Callable:
    """Add --model and --cascade."""
    return _with(verb, MODEL)


def rows_options(verb: Callable) -> Callable:
    """Add --first, --wait and --filter."""
    return _with(verb, ROWS)


def _with(verb: Callable, options: tuple[Callable[[Callable], Callable], ...]) -> Callable:
    for option in reversed(options):
        verb = option(verb)
    return verb
