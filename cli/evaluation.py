"""etcpipe eval: a model file on labelled flows that it has not seen."""

from pathlib import Path
from typing import Any

import click

from etcpipe.cli.common import Verb, is_json, print_json
from etcpipe.cli.progress import Steps
from etcpipe.cli.reading import import_for_training, read_data
from etcpipe.errors import UsageError


class Depths(click.ParamType):
    """Packet counts, separated by commas."""

    name = "depths"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        try:
            return [int(one) for one in value.split(",")]
        except ValueError:
            self.fail(f"{value!r}: give numbers of packets, as 1,3,5,10", param, ctx)


@click.command("eval", cls=Verb)
@click.argument("model")
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--task", help="Which labels of a bundle with tasks.csv to take.")
@click.option("--depths", type=Depths(), metavar="N,N,...", help="F1 when so many packets came.")
@click.option(
    "--open-set", is_flag=True, help="Leave each class out, and compare scores for unknown flows."
)
@click.option(
    "--plot", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="PNG files."
)
@click.option("--seed", default=1, show_default=True, help="Of intervals and fits.")
@click.option(
    "--i-know-this-leaks", "leaks", is_flag=True, help="Allow DATA that the model was trained on."
)
@click.pass_context
def eval(  # the verb's name
    ctx: click.Context,
    model: str,
    data: tuple[Path, ...],
    task: str | None,
    depths: list[int] | None,
    open_set: bool,
    plot: Path | None,
    seed: int,
    leaks: bool,
) -> None:
    """Score MODEL, a file or the name of a shipped one, on labelled DATA.

    DATA are folders of labelled captures, or a folder of `etcpipe dataset build`, of other
    captures than the model was trained on. --open-set fits models of the same kind again.

    \b
    Example:
      etcpipe eval mine.onnx friday/ --depths 1,3,5,10 --plot plots/
    """
    from etcpipe import model as models

    loaded = models.load(model)
    datasets, model_eval = import_for_training("dataset", "model_eval")
    if depths and any(datasets.is_folder(path) for path in data):
        raise UsageError("--depths needs the captures: a built dataset has one depth only")
    given = datasets.Input(loaded.first_n, loaded.count, loaded.wait_s)
    with Steps() as progress:
        _check_input(data, loaded, given)
        dataset = read_data(data, task, given, loaded.mask, [loaded.view.name], progress)
        if not leaks:
            model_eval.check_unseen(loaded, dataset)
        report = model_eval.evaluate_model(loaded, dataset, seed)
        if depths:
            recordings = [one for path in data for one in datasets.find_recordings(path, task)]
            report["depths"] = model_eval.f1_at_depths(loaded, recordings, depths, seed)
        if open_set:
            report["open_set"] = _open_set(loaded, dataset, given, seed, progress)
    if plot:
        from etcpipe import plots

        report["plots"] = [str(path) for path in plots.draw(report, plot)]
    if is_json(ctx):
        print_json(ctx, report)
    else:
        click.echo(as_text(report))


def _check_input(data: tuple[Path, ...], loaded: Any, given: Any) -> None:
    from etcpipe.cli.reading import input_of

    built = input_of(data, given)
    if built != given:
        raise UsageError(
            f"{data[0]} was built with --first {built.first_n} --count {built.count} --wait "
            f"{built.wait_s:g}, {loaded} wants --first {given.first_n} --count {given.count} "
            f"--wait {given.wait_s:g}"
        )


def _open_set(loaded: Any, dataset: Any, given: Any, seed: int, progress: Steps) -> dict[str, Any]:
    open_sets, trains = import_for_training("open_set", "train")
    arch = loaded.description.scores.get("arch", trains.TREES)
    settings = trains.Settings(given, mask=loaded.mask, seed=seed, arch=arch)
    learner, _ = trains.learners_of(dataset, settings)
    return open_sets.measure(dataset, learner, loaded.mask, seed=seed, on_step=progress)


def as_text(report: dict[str, Any]) -> str:
    """Return the scores as a table for people."""
    low, high = report["macro_f1_interval"]
    lines = [
        f"{report['model']} on {report['flows']} flows of {report['captures']} captures",
        f"macro-F1 {report['macro_f1']:.3f} ({low:.3f} to {high:.3f}), weighted "
        f"{report['weighted_f1']:.3f}, accuracy {report['accuracy']:.3f}, balanced "
        f"{report['balanced_accuracy']:.3f}, calibration error {report['calibration_error']:.3f}",
        "",
        f"{'class':<20}{'flows':>7}{'captures':>10}{'precision':>11}{'recall':>8}{'F1':>8}",
    ]
    for name, one in report["classes"].items():
        lines.append(
            f"{name:<20}{one['flows']:>7}{one['captures']:>10}{one['precision']:>11.3f}"
            f"{one['recall']:>8.3f}{one['f1']:>8.3f}"
        )
    unknown = report["unknown"]
    lines += [
        "",
        f"unknown below {unknown['threshold']:.3f}: {unknown['known_refused']:.1%} of flows",
    ]
    if unknown["strange_flows"]:
        lines.append(
            f"classes that it does not know ({', '.join(report['strange_classes'])}): "
            f"{unknown['strange_flows']} flows, {unknown['strange_refused']:.1%} refused, "
            f"area under ROC {unknown['area_under_roc']:.3f}"
        )
    for depth, one in report.get("depths", {}).items():
        low, high = one["macro_f1_interval"]
        lines.append(
            f"{depth:>3} packets: macro-F1 {one['macro_f1']:.3f} ({low:.3f} to {high:.3f})"
        )
    if "open_set" in report:
        found = report["open_set"]
        lines.append(f"classes left out, one by one ({len(found['without'])}):")
        lines += [
            f"  {name:<12} area under ROC {area:.3f}, FPR95 {found['fpr95'][name]:.3f}"
            for name, area in found["area_under_roc"].items()
        ]
    return "\n".join(lines)
