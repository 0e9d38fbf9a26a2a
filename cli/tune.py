"""etcpipe tune: features, depth and model by accuracy against measured cost."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from etcpipe.cli.common import Group, Verb, is_json, output_option, print_json, warn
from etcpipe.cli.progress import Steps
from etcpipe.cli.reading import TASK_OPTION, import_for_training, row_options
from etcpipe.cli.splitting import split_options
from etcpipe.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from etcpipe.tune.data import LabelledFlows
    from etcpipe.tune.front import Front
    from etcpipe.tune.job import Search
    from etcpipe.tune.search import Measured

EXIT_DEGRADED = 3
EXIT_INTERRUPTED = 130
COSTS = {"cpu": "cpu_ns", "latency": "latency_s"}
_WAIT_MIN, _WAIT_MAX = 0.001, 86400.0
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class Searching(Group):
    """A group whose verb `search` may be left out: `etcpipe tune DATA` searches."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_verb = bool(args) and args[0] in (*self.list_commands(ctx), *ctx.help_option_names)
        if args and args != ["help"] and not is_verb and not ctx.resilient_parsing:
            args = ["search", *args]
        return super().parse_args(ctx, args)


class BudgetOption(click.ParamType):
    """A number of evaluations, or a time: 200, 90s, 10m, 2h."""

    name = "budget"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int | None, float | None]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([1-9]\d*)([smh]?)", value)
        if not found:
            self.fail(f"{value!r}: give evaluations, as 200, or a time, as 10m", param, ctx)
        number, unit = int(found[1]), found[2]
        return (None, float(number * _SECONDS[unit])) if unit else (number, None)


class WaitsOption(click.ParamType):
    """Times in seconds, as 0.05,0.2, or none."""

    name = "waits"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            found = () if value == "none" else tuple(float(one) for one in value.split(","))
        except ValueError:
            found = (0.0,)
        if not all(_WAIT_MIN <= one <= _WAIT_MAX for one in found):
            self.fail(f"{value!r}: give seconds, as 0.05,0.2, or none", param, ctx)
        return found


@click.group(cls=Searching, short_help="Search features, depth and model by measured cost.")
def tune() -> None:
    """Search for models that no other beats in both accuracy and cost.

    The word search may be omitted. Its options: `etcpipe tune search --help`.

    \b
    Examples:
      etcpipe tune recordings/ -o best --budget 10m --baselines rules
      etcpipe tune show best
      etcpipe classify --point best/front.json#3 other.pcap
    """


@tune.command("search", cls=Verb)
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@output_option("DIR", "Where front.json, the models of its points and report.html go.")
@TASK_OPTION
@click.option(
    "--budget",
    type=BudgetOption(),
    default="100",
    help="Number of evaluations (200) or time (10m) of the search; what follows is not counted.",
)
@click.option(
    "--cost",
    type=click.Choice(list(COSTS)),
    default="cpu",
    help="What to minimise beside the error: processor time, or the time to a verdict.",
)
@click.option(
    "--max-latency",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Only points that answer a flow within S seconds.",
)
@click.option(
    "--max-cost",
    type=click.FloatRange(0, min_open=True),
    metavar="NS",
    help="Only points that take at most NS of processor time a flow.",
)
@click.option(
    "--min-f1",
    type=click.FloatRange(0, 1),
    metavar="F1",
    help="Only points with this macro-F1 or more.",
)
@click.option(
    "--depth",
    type=click.IntRange(1, 64),
    default=50,
    help="Most packets of a flow that a point may wait for.",
)
@click.option(
    "--view",
    type=click.Choice(["stats", "features"]),
    default="stats",
    help="Columns to choose from: CATO's 67, or these and more.",
)
@row_options
@click.option(
    "--waits",
    type=WaitsOption(),
    metavar="S,S..",
    help="Waits shorter than --wait to choose from too, or none; default: several with "
    "--cost latency.",
)
@split_options
@click.option("--skip-rare", is_flag=True, help="Leave out classes with fewer than three captures.")
@click.option("--seed", default=1, help="Seed of folds, fits and the search.")
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=1, help="Number of processes that search."
)
@click.option("--resume", is_flag=True, help="Continue the search that is in DIR.")
@click.option(
    "--baselines",
    type=click.Choice(["none", "rules", "all"]),
    default="none",
    help="Also measure ALL, RFE10 and MI10; all: also search at random, by NSGA-II and annealing.",
)
@click.option(
    "--throughput", is_flag=True, help="Measure zero-loss throughput at the end, 10 s a point."
)
@click.pass_context
def search(
    ctx: click.Context,
    data: tuple[Path, ...],
    output: Path,
    task: str | None,
    depth: int,
    view: str,
    count: str,
    wait: float,
    skip_rare: bool,
    **options: Any,
) -> int:
    """Search for the best points for DATA, labelled captures, and write their models to DIR.

    Every score is of captures that were held out, and some captures are put aside for the
    scores at the end. After Ctrl-C, --resume continues.

    \b
    Examples:
      etcpipe tune search recordings/ -o tuned/ --budget 10m
      etcpipe tune search recordings/ -o tuned/ --cost latency --resume
    """
    datasets, data_of_tune, job = import_for_training("dataset", "tune.data", "tune.job")
    if any(datasets.is_folder(path) for path in data):
        raise UsageError("a search needs the captures: a built dataset has one depth only")
    if any(one >= wait for one in options["waits"] or ()):
        raise UsageError(f"--waits: give times shorter than --wait, {wait:g} s")
    settings = _settings(job, **options)
    recordings = [one for path in data for one in datasets.find_recordings(path, task)]
    with Steps() as steps:

        def read(given: Any) -> "LabelledFlows":
            flows = data_of_tune.read_flows(
                recordings, given, lambda done, total: steps("reading", done, total), view
            )
            return _without_rare(flows, settings.split) if skip_rare else flows

        flows = read(datasets.Input(depth, count, wait))
        one: Search = job.prepare(flows, output, settings)
        try:
            job.search(one, _tell_of(steps, settings.budget))
        except KeyboardInterrupt:
            steps.__exit__()
            warn(f"interrupted: {len(one.study.measured())} points are kept, --resume goes on")
            return EXIT_INTERRUPTED
        whole = replace(job.WHOLE, count=count)
        front: Front = job.complete(one, steps, lambda: read(whole))
    is_drawn = _draw(front, output)
    _print(ctx, front, output)
    return 0 if is_drawn else EXIT_DEGRADED


def _without_rare(flows: "LabelledFlows", split: str) -> "LabelledFlows":
    from etcpipe.tune.evaluation import rare_classes

    rare = rare_classes(flows, split)
    if rare:
        warn(f"left out, in fewer than three {split}s: {', '.join(rare)}")
    return flows.without(rare)


def _settings(
    job: Any,
    *,
    budget: tuple[int | None, float | None],
    cost: str,
    max_latency: float | None,
    max_cost: float | None,
    min_f1: float | None,
    waits: tuple[float, ...] | None,
    mask: str,
    split: str,
    seed: int,
    jobs: int,
    resume: bool,
    baselines: str,
    throughput: bool,
) -> Any:
    """Return the options as the job's Settings."""
    caps = {"cpu_ns": max_cost, "latency_s": max_latency}
    objective = COSTS[cost]
    others = {n: cap for n, cap in caps.items() if cap is not None and n != objective}
    limits = job.Limits(None if min_f1 is None else 1 - min_f1, caps[objective], others)
    if waits is None:
        waits = job.SHORTER_WAITS if cost == "latency" else ()
    return job.Settings(
        objective,
        limits,
        job.Budget(*budget),
        jobs,
        resume,
        baselines,
        throughput,
        waits,
        mask,
        split,
        seed,
    )


def _tell_of(steps: Steps, budget: Any) -> Any:
    def tell(measured: "Sequence[Measured]", covered: float) -> None:
        best = 1 - min(one.error for one in measured)
        steps(
            f"{len(measured)} measured, hypervolume {covered:.3f}, best F1 {best:.3f}",
            len(measured),
            budget.evaluations or len(measured),
        )

    return tell


def _draw(front: "Front", folder: Path) -> bool:
    """Write plots and the page; return whether matplotlib was there for it."""
    from etcpipe.tune import plots, report

    try:
        drawn = plots.draw(front, folder)
    except UnsupportedError as error:
        warn(str(error))
        drawn = []
    report.write_page(front, folder, drawn)
    return bool(drawn)


def _print(ctx: click.Context, front: "Front", folder: Path) -> None:
    from dataclasses import asdict

    from etcpipe.tune import report

    if is_json(ctx):
        print_json(ctx, asdict(front))
        return
    click.echo("\n".join(report.lines(front)))
    click.echo(f"\n{folder}/front.json, {folder}/{report.PAGE}")


@tune.command("show", cls=Verb)
@click.argument("front", type=click.Path(exists=True, path_type=Path))
@click.pass_context
def show(ctx: click.Context, front: Path) -> None:
    """Show the points of FRONT, a front.json or its folder.

    \b
    Example:
      etcpipe tune show tuned/
    """
    from etcpipe.tune.front import front_file, load_front

    _print(ctx, load_front(front), front_file(front).parent)
