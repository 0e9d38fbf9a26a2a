"""etcpipe cascade: stages of models that answer flows as early as they are sure."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etcpipe.cli.common import (
    Group,
    Verb,
    check_suffix,
    defaulted,
    is_json,
    output_option,
    print_json,
    warn,
)
from etcpipe.cli.progress import Steps
from etcpipe.cli.reading import PART_OPTION, TASK_OPTION, import_for_training, row_options
from etcpipe.errors import UsageError

if TYPE_CHECKING:
    from etcpipe.cascade.candidates import Wanted

TARGETS = ("f1", "median-latency", "slow-share", "cost", "early")
RULES = ("threshold", "per_class", "target")


@click.group(cls=Group, short_help="Fit models in stages that answer early, show a cascade.")
def cascade() -> None:
    """Fit and show cascades: several models, of which the first that is sure answers a flow."""


@cascade.command(cls=Verb)
@click.argument("models", nargs=-1, required=True, metavar="MODELS... DATA")
@output_option("FILE", "The cascade's file.")
@click.option(
    "--front",
    type=click.Path(exists=True, path_type=Path),
    help="A front of etcpipe tune on other captures: the best model of each depth may be a stage.",
)
@TASK_OPTION
@PART_OPTION
@click.option(
    "--depths",
    default="1,2,3,5,10",
    metavar="N,N,...",
    help="Numbers of packets at which models are trained; NAME@N,N sets its own.",
)
@defaulted(
    "--target",
    click.Choice(TARGETS),
    "f1",
    "What to optimise, without losing F1 against the model that waits longest.",
)
@defaulted(
    "--slack",
    click.FloatRange(0, 1),
    0.01,
    "Most macro-F1 that may be lost, by the lower end of its interval.",
)
@click.option(
    "--speed-up",
    default=0.0,
    type=click.FloatRange(0),
    metavar="X",
    help="Answer half of the flows X times sooner than the model that waits longest.",
)
@click.option(
    "--of-oracle",
    default=0.0,
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Answer at least SHARE of what an oracle of the same stages answers within 16 ms.",
)
@defaulted("--rule", click.Choice(RULES), "threshold", "How a stage decides that it is sure.")
@row_options
@click.option("--folds", default=3, type=click.IntRange(2), help="Number of folds of captures.")
@click.option("--seed", default=1, help="Makes folds and fits repeatable.")
@click.option("--rounds", type=click.IntRange(1), help="Most rounds of a network's training.")
@click.option(
    "--with-slow",
    is_flag=True,
    help="Also write the model that waits longest, for serve-bench --wait-for.",
)
@click.pass_context
def fit(ctx: click.Context, models: tuple[str, ...], **options: Any) -> None:
    """Fit a cascade to DATA, a folder of labelled captures: its stages and thresholds.

    MODELS are names to train, as in `etcpipe train --arch`, or model files of other captures.
    Half of the captures choose the stages, the other half scores them. No flow is judged by a
    model that was fitted to its capture.

    \b
    Examples:
      etcpipe cascade fit lightgbm recordings/ -o cascade.toml
      etcpipe cascade fit lightgbm@1,2,4 df30_lite@30 bundle/ --task app -o cascade.toml
      etcpipe cascade fit --front best/front.json friday/ -o cascade.toml
    """
    *names, data = models
    if front := options.pop("front"):
        names += _models_of(front)
    if not names or not Path(data).is_dir():
        raise UsageError(
            "give MODELS and then DATA, a folder: etcpipe cascade fit lightgbm recordings/"
        )
    output: Path = options["output"]
    check_suffix(output, ".toml", "a cascade's file")
    if not output.absolute().parent.is_dir():
        raise click.BadParameter(f"no folder {output.parent}", ctx, param_hint="-o")
    fits, reports = import_for_training("cascade.fit", "cascade.report")
    result = _fit(names, Path(data), options)
    fits.write(result, output, options["with_slow"])
    if is_json(ctx):
        print_json(ctx, {"cascade": str(output), **reports.as_numbers(result)})
    else:
        click.echo(reports.as_text(result))
        click.echo(f"\n{output}: attach with etcpipe attach DEV --cascade {output}")
    for text in reports.warnings(result):
        warn(text)


def _models_of(front: Path) -> list[str]:
    from etcpipe.tune.front import front_file, load_front, models_by_depth

    file = front_file(front)
    return [str(model) for _, model in models_by_depth(load_front(file), file.parent)]


def _fit(names: list[str], data: Path, options: dict[str, Any]) -> Any:
    from etcpipe import dataset as datasets
    from etcpipe.training.fitting import Fitting

    candidates, fits, rows_at = import_for_training(
        "cascade.candidates", "cascade.fit", "cascade.rows"
    )
    if datasets.is_folder(data):
        raise UsageError(f"{data} has rows of one depth: give the captures that it was built of")
    depths = candidates.parse_depths(options["depths"])
    wanted = [candidates.parse(name, depths) for name in names]
    settings = datasets.Input(count=options["count"], wait_s=options["wait"])
    how = candidates.Training(
        options["mask"], options["seed"], options["folds"], Fitting(options["rounds"])
    )
    with Steps() as progress:
        rows = rows_at.read_at_depths(
            datasets.find_recordings(data, options["task"], options["part"]),
            _depths(wanted),
            settings,
            candidates.views_of(wanted),
            options["mask"],
            lambda done, total: progress("reading", done, total),
        )
        target = fits.Target(
            *(options[name] for name in ("target", "rule", "slack", "speed_up", "of_oracle"))
        )
        return fits.fit(wanted, rows, how, target, progress)


def _depths(wanted: "list[Wanted]") -> list[int]:
    return sorted({depth for one in wanted for depth in one.depths})


@cascade.command(cls=Verb)
@click.argument("file", required=False, type=click.Path(), metavar="[FILE]")
@click.pass_context
def show(ctx: click.Context, file: str | None) -> None:
    """Show the stages of FILE, a cascade or a model that holds one, or of the shipped one.

    \b
    Examples:
      etcpipe cascade show cascade.toml
      etcpipe cascade show
    """
    from dataclasses import asdict

    from etcpipe.cascade import serving
    from etcpipe.cascade.show import describe

    found = serving.stages_of(file)
    if is_json(ctx):
        print_json(ctx, asdict(found))
        return
    click.echo("\n".join(describe(found)))
    click.echo(
        f"a flow is answered by what there is when nothing came for {found.wait_s:g} s; unsure "
        f"answers are {'told at once and corrected' if found.early else 'kept until sure'}"
    )


@cascade.command(cls=Verb)
@click.argument("file", type=click.Path(path_type=Path))
@output_option("FILE", "The model file.")
def embed(file: Path, output: Path) -> None:
    """Put the cascade of FILE with all its models into one model file.

    \b
    Example:
      etcpipe cascade embed cascade.toml -o cascade.onnx
    """
    from etcpipe.cascade import bundle, serving, stages

    check_suffix(output, bundle.SUFFIX, "a model file")
    serving.load(file)  # what does not fit is said before anything is written
    found = stages.load(file)
    bundle.save(bundle.embed(found, serving.files(found, file.parent)), output)
