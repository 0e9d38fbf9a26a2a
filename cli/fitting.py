"""Options on how a network is fitted."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from etcpipe.cli.common import defaulted
from etcpipe.training.fitting import Fitting

OPTIONS = (
    defaulted(
        "--device",
        click.Choice(["auto", "cpu", "gpu"]),
        "auto",
        "Where a network is trained; auto: the GPU if there is one.",
    ),
    click.option(
        "--rounds",
        type=click.IntRange(1),
        help="Most rounds of a network's training; default: by architecture.",
    ),
    defaulted(
        "--batch",
        click.IntRange(2),
        Fitting.batch,
        "Flows of one step of a network's training.",
    ),
    defaulted(
        "--patience",
        click.IntRange(1),
        Fitting.patience,
        "Rounds without a better score before a network's training stops.",
    ),
    click.option(
        "--pretrained",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Begin with weights of --pretrain; also reports frozen and random weights.",
    ),
)


def fitting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; the command gets them as one Fitting `fitting`."""

    @wraps(command)
    def with_fitting(
        *args: Any,
        output: Path,
        device: str,
        rounds: int | None,
        batch: int,
        patience: int,
        pretrained: Path | None,
        **others: Any,
    ) -> Any:
        unfinished = output.with_name(f"{output.name}.unfinished")
        where = "cuda" if device == "gpu" else device  # as PyTorch calls it
        fitting = Fitting(rounds, batch, patience, where, unfinished, pretrained)
        return command(*args, output=output, fitting=fitting, **others)

    for option in reversed(OPTIONS):
        with_fitting = option(with_fitting)
    return with_fitting
