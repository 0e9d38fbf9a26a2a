"""etcpipe dataset: rows of labelled captures, made once and looked over."""

from pathlib import Path
from typing import Any

import click

from etcpipe.cli.common import Group, Verb, check_suffix, is_json, output_option, print_json, warn
from etcpipe.cli.progress import Steps
from etcpipe.cli.reading import TASK_OPTION, import_for_training, input_options, read_data
from etcpipe.cli.splitting import split_options

EXIT_DEGRADED = 3
VIEWS = ("raw", "raw1500", "packet", "image", "tok", "bits")


@click.group(cls=Group, short_help="Build datasets from labelled captures, and check them.")
def dataset() -> None:
    """Build datasets, which models learn from, once from labelled captures."""


@dataset.command("build", cls=Verb)
@click.argument("captures", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@output_option("DIR", "A new folder.")
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A labels.csv that is not beside the captures.",
)
@TASK_OPTION
@click.option(
    "--view",
    "views",
    type=click.Choice(VIEWS),
    multiple=True,
    help="A view to add to stats and seq, for networks; may be repeated.",
)
@input_options
@click.pass_context
def build_dataset(
    ctx: click.Context,
    captures: tuple[Path, ...],
    output: Path,
    labels: Path | None,
    task: str | None,
    views: tuple[str, ...],
    first: int | None,
    count: str,
    wait: float,
    mask: str,
) -> int:
    """Write the rows of labelled CAPTURES, files or folders, into a new folder DIR.

    The labels are in a labels.csv beside the captures, or in that of --labels. `etcpipe lab
    record` makes both. Captures that cannot be read are left out, and the exit status is 3.

    \b
    Examples:
      etcpipe dataset build recordings/ --labels labels.csv --view tok -o monday
      etcpipe dataset report monday
      etcpipe train monday -o mine.onnx
    """
    from etcpipe import dataset as datasets

    if labels:
        recordings = datasets.find_labelled(captures, labels)
    else:
        recordings = [one for path in captures for one in datasets.find_recordings(path, task)]
    settings = datasets.Input(first or datasets.Input.first_n, count, wait)
    with Steps() as progress:
        manifest = datasets.build(
            recordings,
            output,
            settings,
            views,
            mask,
            lambda done, total: progress("reading", done, total),
        )
    if is_json(ctx):
        names = ("flows", "unlabelled", "classes", "views", "mask", "skipped")
        print_json(ctx, {"dataset": str(output)} | {n: getattr(manifest, n) for n in names})
    else:
        click.echo(
            f"{output}: {manifest.flows} flows of {len(manifest.captures)} captures, "
            f"{len(manifest.classes)} classes, views {', '.join(manifest.views)}, "
            f"mask {manifest.mask}; {manifest.unlabelled} flows without a label left out"
        )
    for path, reason in manifest.skipped.items():
        warn(reason if path in reason else f"{path}: {reason}")
    return EXIT_DEGRADED if manifest.skipped else 0


@dataset.command("report", cls=Verb)
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@TASK_OPTION
@click.option("--folds", default=5, type=click.IntRange(2), help="Number of folds of captures.")
@click.option("--seed", default=1, help="Makes folds and fits repeatable.")
@split_options
@click.pass_context
def report_dataset(
    ctx: click.Context, data: tuple[Path, ...], task: str | None, folds: int, seed: int, split: str
) -> None:
    """Say what is wrong with DATA: duplicates, plaintext, short flows, and shortcuts.

    DATA is a folder of `etcpipe dataset build`, or labelled captures.

    \b
    Examples:
      etcpipe dataset report rows/
      etcpipe dataset report monday/ tuesday/ --folds 3
    """
    datasets, reports = import_for_training("dataset", "dataset.report")
    with Steps() as progress:
        found = read_data(data, task, datasets.Input(), "strict", (), progress)
        report = reports.describe(found, folds, seed, split, progress)
    if is_json(ctx):
        print_json(ctx, report)
    else:
        click.echo(as_text(report))


@dataset.command("export", cls=Verb)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--mask",
    type=click.Choice(["strict", "standard", "none"]),
    default="strict",
    help="Leave out the statistics that this mask hides.",
)
@click.pass_context
def export_dataset(ctx: click.Context, folder: Path, output: Path, mask: str) -> None:
    """Write statistics and sequences of a built dataset to OUTPUT, a Parquet file.

    \b
    Example:
      etcpipe dataset export monday monday.parquet
    """
    from etcpipe import dataset as datasets
    from etcpipe.dataset.export import to_parquet

    check_suffix(output, ".parquet", "a Parquet file")
    flows = to_parquet(datasets.open_folder(folder), output, mask)
    if is_json(ctx):
        print_json(ctx, {"output": str(output), "flows": flows})
    else:
        click.echo(f"{output}: {flows} flows")


def as_text(report: dict[str, Any]) -> str:
    """Return a dataset's report as a table for people."""
    lines = [
        f"{report['flows']} flows of {report['captures']} captures, {report['unlabelled']} more "
        "without a label",
        "",
        f"{'class':<20}{'flows':>7}{'captures':>10}{'packets':>9}{'short':>8}{'plain':>8}",
    ]
    for name, one in report["classes"].items():
        plain = f"{one['plain']:>8.1%}" if "plain" in one else ""
        lines.append(
            f"{name:<20}{one['flows']:>7}{one['captures']:>10}{one['packets_median']:>9.0f}"
            f"{one['short']:>8.1%}{plain}"
        )
    twins, split = report["duplicates"], report["split"]
    kinds = ", ".join(f"{name} {part:.1%}" for name, part in report["payload"].items() if part)
    lines += [
        "",
        f"first payload: {kinds or 'not noted'}",
        f"short flows (below 3 packets): {report['short']:.1%}",
        f"duplicates by sizes and directions: {twins['share']:.1%}, across a split by {split} "
        f"{twins['across']:.1%}; best accuracy that these allow {twins['reachable']:.3f}",
    ]
    for name, what in (("ids_only", "hidden fields alone"), ("masked", "what strict shows")):
        low, high = report[name]["interval"]
        score = report[name]["macro_f1"]
        lines.append(f"trees on {what}: macro-F1 {score:.3f} ({low:.3f} to {high:.3f})")
    if report["shortcut"]:
        lines.append("  ports, TTL or window would tell the class here: keep them masked")
    return "\n".join(lines)
