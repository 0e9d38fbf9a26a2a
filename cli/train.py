"""etcpipe train: labelled captures in, a model file and its held-out scores out."""

from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import click

from etcpipe.cli import pretraining
from etcpipe.cli.common import Verb, check_suffix, is_json, output_option, print_json
from etcpipe.cli.fitting import fitting_options
from etcpipe.cli.progress import Steps
from etcpipe.cli.reading import TASK_OPTION, import_for_training, input_of, input_options, read_data
from etcpipe.cli.splitting import split_options
from etcpipe.cli.train_text import as_text, cost_line
from etcpipe.training.fitting import KERNEL_TREES, VIEW_TREES
from etcpipe.zoo import ARCHS

if TYPE_CHECKING:
    from etcpipe.training.train import Result


@click.command(cls=Verb, short_help="Train a model from labelled captures.")
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@output_option("FILE", "The model, a .onnx file.")
@TASK_OPTION
@click.option("--name", metavar="NAME", help="Name of the model; default: that of the file.")
@click.option(
    "--arch",
    type=click.Choice(["lightgbm", KERNEL_TREES, *VIEW_TREES, *ARCHS]),
    default="lightgbm",
    metavar="NAME",
    help=f"Trees on statistics: lightgbm; for --stage0 kernel: {KERNEL_TREES}; on whole "
    f"views: {', '.join(VIEW_TREES)}. Networks: "
    f"{', '.join(ARCHS)}.",
)
@click.option(
    "--family",
    "families",
    multiple=True,
    metavar="NAME=CLASS,CLASS",
    help="Classes that a verdict may name together; may be repeated. Default: by the labels.",
)
@input_options
@click.option("--folds", default=5, type=click.IntRange(2), help="Number of folds of captures.")
@click.option("--seed", default=1, help="Makes folds and fits repeatable.")
@split_options
@fitting_options
@click.option(
    "--pretrain",
    is_flag=True,
    help="Learn from captures without labels; writes weights (.npz) to the output.",
)
@click.pass_context
def train(
    ctx: click.Context,
    data: tuple[Path, ...],
    output: Path,
    task: str | None,
    name: str | None,
    families: tuple[str, ...],
    first: int | None,
    count: str,
    wait: float,
    pretrain: bool,
    **fits: Any,
) -> None:
    """Train gradient boosted trees, or a network, on DATA and write them as one .onnx file.

    DATA are folders with captures and a labels.csv (as `etcpipe lab record` makes them),
    a bundle with flows.csv and tasks.csv, or one folder of `etcpipe dataset build`. Every
    score that is printed comes from captures that were held out. The training of a network
    that was cut off goes on where it was when the same command runs again.

    \b
    Examples:
      etcpipe lab record monday.pcap --sessions 10 --seed 1
      etcpipe lab record tuesday.pcap --sessions 10 --seed 2
      etcpipe train . -o mine.onnx
      etcpipe classify other.pcap --model mine.onnx
    """
    _check_output(ctx, output, pretrain)
    datasets, trains, choice = import_for_training(
        "dataset", "training.train", "training.family_choice"
    )
    of_families = choice.parsed(families)
    view, first_n = _input_of(fits["arch"])
    given = datasets.Input(first or first_n or datasets.Input.first_n, count, wait)
    views = [view] if view else []
    with Steps() as progress:
        dataset = read_data(data, task, given, fits["mask"], views, progress, not pretrain)
        settings = trains.Settings(
            input_of(data, given),
            name or output.stem,
            families=of_families,
            **fits,  # they are named as its attributes
        )
        if pretrain:
            weights = pretraining.learn(dataset, settings, progress)
            write = partial(pretraining.write, ctx, output, weights)
        else:
            result = trains.train(dataset, settings, on_step=progress)
            write = partial(_write_model, ctx, output, result)
    write()
    if unfinished := fits["fitting"].checkpoints:
        rmtree(unfinished, ignore_errors=True)


def _check_output(ctx: click.Context, output: Path, is_pretraining: bool) -> None:
    """Refuse a file that cannot be written, before hours of training."""
    if not output.absolute().parent.is_dir():
        raise click.BadParameter(f"no folder {output.parent}", ctx, param_hint="-o")
    if not is_pretraining:
        check_suffix(output, ".onnx", "a model file")


def _input_of(arch: str) -> tuple[str | None, int | None]:
    """Return the view that an architecture reads beside statistics, and its number of packets."""
    network = ARCHS.get(arch)
    return (network.view, network.first_n) if network else (VIEW_TREES.get(arch), None)


def _write_model(ctx: click.Context, output: Path, result: "Result") -> None:
    output.write_bytes(result.model)
    files = {"model": str(output)}
    if result.gpu_model:
        for_gpu = output.with_name(f"{output.stem}.gpu{output.suffix}")
        for_gpu.write_bytes(result.gpu_model)
        files["gpu_model"] = str(for_gpu)
    if is_json(ctx):
        print_json(ctx, files | {"us_per_flow": round(result.us_per_flow, 2)} | result.report)
    else:
        click.echo(as_text(result.report))
        click.echo(cost_line(output, result))
