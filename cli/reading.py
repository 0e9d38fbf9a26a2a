"""How verbs read labelled data: captures, or a folder that was built of them."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from etcpipe import runtime
from etcpipe.cli.asking import FIRST_N, WAIT_S
from etcpipe.cli.common import defaulted, warn
from etcpipe.errors import UnsupportedError, UsageError
from etcpipe.layout import COUNT_RULES

if TYPE_CHECKING:
    from etcpipe.dataset import Dataset, Input
    from etcpipe.model import Model

OnStep = Callable[[str, int, int], None]

_FIRST_OPTION = click.option(
    "--first",
    type=FIRST_N,
    help="Packets of each flow; default: 10, or as many as the network takes.",
)
_ROW_OPTIONS = (
    click.option(
        "--counting",
        "count",
        type=click.Choice(list(COUNT_RULES)),
        default="payload",
        help="Packets that count towards the first N.",
    ),
    click.option(
        "--wait",
        type=WAIT_S,
        default=1.0,
        metavar="S",
        help="Judge a flow after this many seconds of silence.",
    ),
    defaulted(
        "--mask",
        click.Choice(["strict", "standard", "none"]),
        "strict",
        "What a model may not see; strict hides ports, TTL and window.",
    ),
)


TASK_OPTION = click.option(
    "--task", metavar="TASK", help="Task of a bundle with tasks.csv whose labels are used."
)
PART_OPTION = click.option(
    "--part", metavar="PART", help="Part of a bundle by its column split: train or test."
)


def input_options(verb: Callable) -> Callable:
    """Add --first, --counting, --wait and --mask: how packets become rows."""
    return _FIRST_OPTION(row_options(verb))


def row_options(verb: Callable) -> Callable:
    """Add --counting, --wait and --mask alone, for verbs that look at many depths."""
    for option in reversed(_ROW_OPTIONS):
        verb = option(verb)
    return verb


def read_data(
    data: Sequence[Path],
    task: str | None,
    settings: "Input",
    mask: str,
    views: Sequence[str],
    on_step: OnStep,
    has_labels: bool = True,
) -> "Dataset":
    """Return the flows of data, as a verb was given them.

    Args:
        has_labels: without, captures need no labels.csv.

    Raises:
        UsageError: a built folder is given with others, or is of other settings.
        CaptureError: a capture cannot be read.
    """
    from etcpipe import dataset as datasets

    if any(datasets.is_folder(path) for path in data):
        if len(data) > 1:
            raise UsageError("give one dataset alone: build one of all captures")
        _check_given(data[0], settings)
        dataset = datasets.open_folder(data[0])
        for view in views:
            dataset.rows(view)  # says how to get one that is not there
        return dataset
    if has_labels:
        recordings = [one for path in data for one in datasets.find_recordings(path, task)]
    else:
        recordings = [one for path in data for one in datasets.find_captures(path)]
    return datasets.read(
        recordings, settings, lambda done, total: on_step("reading", done, total), views, mask
    )


def input_of(data: Sequence[Path], given: "Input") -> "Input":
    """Return how the rows of data are made: as a built folder says, else as given."""
    from etcpipe import dataset as datasets

    return datasets.read_manifest(data[0]).input if datasets.is_folder(data[0]) else given


def _check_given(folder: Path, settings: "Input") -> None:
    from etcpipe import dataset as datasets

    built = datasets.read_manifest(folder).input
    ctx = click.get_current_context()
    for option, value, name in (
        ("first", "first", "first_n"),
        ("counting", "count", "count"),
        ("wait", "wait", "wait_s"),
    ):
        is_given = ctx.get_parameter_source(value) is ParameterSource.COMMANDLINE
        if is_given and getattr(built, name) != getattr(settings, name):
            raise UsageError(
                f"{folder} was built with --{option} {getattr(built, name)}: build another one"
            )


def warn_of_stages(model: "Model") -> None:
    """Say that a file holds a cascade where only the model of its last stage is asked."""
    from etcpipe.cascade import bundle

    *early, last = bundle.depths(model)
    if early:
        warn(
            f"{model.name} is a cascade, this is of its last stage alone, at {last} packets: "
            "serve-bench tells what all stages give"
        )


def import_for_training(*names: str) -> list[ModuleType]:
    """Return modules of etcpipe that need what training needs.

    Raises:
        UnsupportedError: a package is not installed.
    """
    try:
        return [import_module(f"etcpipe.{name}") for name in names]
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("etcpipe"):
            raise
        extra = "tune" if error.name == "optuna" else "train"
        raise UnsupportedError(
            f"this needs {error.name}, which is not installed: {runtime.remedy_for(extra)}"
        ) from error
