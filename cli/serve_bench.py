"""etcpipe serve-bench: how a cascade serves recorded flows, beside other ways to do it."""

from pathlib import Path
from typing import Any

import click

from etcpipe.cli.common import Verb, defaulted, is_json, print_json
from etcpipe.cli.progress import Steps
from etcpipe.cli.reading import PART_OPTION, TASK_OPTION


class Loads(click.ParamType):
    """Loads, separated by commas."""

    name = "loads"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            loads = tuple(float(one) for one in value.split(","))
        except ValueError:
            loads = ()
        if not loads or min(loads) <= 0 or max(loads) > 10:
            self.fail(f"{value!r}: give numbers above 0, as 0.2,0.8,1.5", param, ctx)
        return loads


@click.command("serve-bench", cls=Verb)
@click.argument("cascade", type=click.Path())
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@TASK_OPTION
@PART_OPTION
@click.option(
    "--wait-for",
    metavar="MODEL",
    help="Slow model to compare with; default: that of the last stage.",
)
@defaulted(
    "--loads",
    Loads(),
    "0.2,0.5,0.8,1,1.2,1.5",
    "Loads as shares of the cascade's capacity: X,X,...",
)
@defaulted("--seconds", click.FloatRange(0.05, 60), 1.0, "Seconds of traffic at each load.")
@click.option(
    "--plot",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write plots as PNG files.",
)
@click.option("--seed", default=1, help="Seed of the arrivals.")
@click.pass_context
def serve_bench(
    ctx: click.Context,
    cascade: str,
    data: Path,
    task: str | None,
    part: str | None,
    wait_for: str | None,
    loads: tuple[float, ...],
    seconds: float,
    plot: Path | None,
    seed: int,
) -> None:
    """Replay the flows of DATA through a CASCADE, with recorded gaps and under load.

    Flows come whether or not the answers keep up. All work is done on one processor, and time
    is that processor's. The cascade is compared with one slow model that waits for all its
    packets, with its first and its last stage alone, with random escalation and with an oracle.
    DATA must be other captures than those that the models were trained on. CASCADE is a .toml,
    or a model file that holds one, or the name of a shipped one.

    \b
    Examples:
      etcpipe cascade fit lightgbm_tok bundle/ --task app --part train -o app.toml
      etcpipe serve-bench app.toml bundle/ --task app --part test --plot plots/
    """
    from etcpipe import dataset as datasets
    from etcpipe import model as models
    from etcpipe.cascade import serving
    from etcpipe.serving import bench, recorded, report

    model = serving.load(cascade)
    slow = models.load(wait_for) if wait_for else model.last
    with Steps() as progress:
        flows = recorded.read(
            datasets.find_recordings(data, task, part),
            model.classes,
            bench.depths_of(model, slow),
            datasets.Input(count=model.count, wait_s=model.wait_s),
            sorted({*model.views, slow.view.name}),
            model.mask,
            lambda done, total: progress("reading", done, total),
        )
        found = bench.run(model, slow, flows, bench.Settings(loads, seconds, seed), progress)
    written = []
    if plot:
        from etcpipe.serving import plots

        written = plots.draw(found, plot)
    if is_json(ctx):
        print_json(ctx, report.as_numbers(found) | {"plots": [str(path) for path in written]})
    else:
        click.echo(report.as_markdown(found))
